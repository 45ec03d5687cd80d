"""What is wrong with a configuration: one line, at its key, blamed on the file or on the override."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows import cli, recipe
from flows.configuration.overrides import parse_override
from flows.configuration.yaml_text import MOST_VALUES, parse_yaml, read_yaml
from flows.errors import InvalidRecipe
from flows.run.standalone_stage import _config

TASKS = "evaluate.tasks"


def refused(overrides: list[str], name: str = "pico-tenant") -> list[str]:
    with pytest.raises(InvalidRecipe) as caught:
        recipe.load(name, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (f"{TASKS}=[{{kind: heldout, nme: x}}]", f"{TASKS}.0.nme: unknown key; did you mean 'name'?"),
        (f"{TASKS}=[{{kind: heldot}}]", f"{TASKS}.0.kind: 'heldot' is not known; did you mean 'heldout'?"),
        (f"{TASKS}=[routing]", f"{TASKS}.0: expected a section with keys (found 'routing')"),
        (f"{TASKS}=[{{kind: lm-eval}}]", f"{TASKS}.0.name: this key is required"),
        (f"{TASKS}=[]", f"{TASKS}: expected at least 1 of them, found 0"),
        (f"{TASKS}=5", f"{TASKS}: expected a list (found 5)"),
        ("quantize=[{bits: 4}]", "quantize.0.method: this key is required; expected one of gptq, gguf"),
        ("quantize=[{method: gtpq}]", "quantize.0.method: 'gtpq' is not known; did you mean 'gptq'?"),
        ("quantize=[{method: gptq, bits: 5}]", "quantize.0.bits: Input should be 2, 3, 4 or 8 (found 5)"),
        ("gate.tasks.0.agains=live", "gate.tasks.0.agains: unknown key; did you mean 'against'?"),
        ("train.epochs=two", "train.epochs: Input should be a valid number"),
        ("train.epochs=.inf", "train.epochs: Input should be a finite number (found inf)"),
        ("train.seed=4294967296", "train.seed: Input should be less than 4294967296"),
        ("train.lora.target_modules=3", "train.lora.target_modules: expected a text or a list (found 3)"),
        ("train.lora.target_modules=[q, 3]", "train.lora.target_modules.1: expected a text (found 3)"),
        ("base.source=meta", "base.source: 'meta' is not a base source"),
        ("prepare.source=meta", "prepare.source: 'meta'"),
        ("trian.epochs=2", "trian: unknown key; did you mean 'train'?"),
        ("name=2001-02-03", "name: expected a text (found 2001-02-03)"),
        ("promote.channel=a/" + "b" * 65, "promote.channel: String should match pattern"),
    ],
)
def test_a_mistake_in_an_override_is_one_line_that_names_it(override: str, expected: str) -> None:
    (line,) = refused([override])
    assert line.startswith(f"{parse_override(override).shown}: {expected}"), line
    assert "Task" not in line
    assert "Config" not in line


def test_of_several_overrides_only_those_are_blamed_that_matter() -> None:
    found = refused(["train.epochs=3", "train.max_length=8", "promote.candidate=foo"])
    assert found == [
        "--set promote.candidate=foo: promote.candidate is 'foo'; this recipe makes: merged, adapter",
        "--set train.max_length=8: train.max_length (8) is less than prepare.max_length (64): rows would be "
        "cut; make them equal",
    ]
    (both,) = refused(["adapter.base=16bit", "adapter.type=F16"])
    assert both.startswith("--set adapter.base=16bit --set adapter.type=F16: adapter: type F16 is of a GGUF")
    (last,) = refused(["train.epochs=two", "train.epochs=three"])
    assert last.startswith("--set train.epochs=three: ")


def test_the_file_is_blamed_for_what_is_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    tree: dict[str, Any] = {"name": "mine", "base": {"source": "pico:0"}, "prepare": {"source": "path:x"}}
    file.write_text(yaml.safe_dump({**tree, "train": {"epochs": "many"}}))
    assert refused(["train.batch_size=0"], str(file)) == [
        f"{file}:",
        "  train.epochs: Input should be a valid number, unable to parse string as a number (found 'many')",
        "--set train.batch_size=0: train.batch_size: Input should be greater than or equal to 1 (found 0)",
    ]


def test_a_task_without_a_kind_is_held_out() -> None:
    assert recipe.load("pico-tenant", [f"{TASKS}=[{{name: routing}}]"]).evaluate.tasks[0].kind == "heldout"


def test_overrides_of_a_plain_stage_are_named_too() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        _config("merge", ["dtyp=x"])
    assert str(caught.value).startswith("--set dtyp=x: dtyp: unknown key; did you mean 'dtype'?")
    with pytest.raises(InvalidRecipe, match="the settings of prepare:\n  source: this key is required"):
        _config("prepare", ["max_length=64"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('Answer: "yes" or no', "not valid YAML"),
        ("[1, 2", "not valid YAML"),
        ("2001-02-30", "day is out of range"),
        ("9" * 5000, "a value cannot be read"),
        ("!!bool maybe", "a value cannot be read"),
        ("!!timestamp x", "a value cannot be read"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("{? [a]: b}", "a key is a word, found a sequence"),
        ("{a: 1, a: 2}", "duplicate key 'a'"),
        ("&a [*a]", "an alias contains itself"),
        ("[" * 3000, "nested too deeply"),
        ("[" * 80 + "]" * 80, "nested more than 64 levels"),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
        ("\x00", "not valid YAML"),
        (r'"\ud800x"', "half a character"),
        (r'{"\ud800x": 1}', "half a character"),
    ],
)
def test_a_value_that_is_no_yaml_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_override(f"prepare.system={text}")
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.startswith("--set ")
    assert "if a text is meant: --set 'prepare.system=\"" in message


def test_few_lines_that_mean_many_values_are_refused() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(InvalidRecipe, match=f"more than {MOST_VALUES:,} values"):
        parse_yaml("\n".join(lines))


def test_aliases_are_not_shared_and_merge_keys_work() -> None:
    tree = parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, x: 2}")
    tree["a"]["x"] = 3
    assert tree == {"a": {"x": 3}, "b": {"x": 1}, "c": {"x": 2}}


def test_a_file_of_megabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("a: " + "x" * (1 << 20))
    with pytest.raises(InvalidRecipe, match="at most 1,048,576 are read"):
        read_yaml(tmp_path / "large.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "expected KEY.PATH=VALUE"),
        ("train.=3", "expected KEY.PATH=VALUE"),
        ("=3", "expected KEY.PATH=VALUE"),
        ("evaluate.tasks.\u00b2=3", "is not an index of a list of 1 entry"),
        ("evaluate.tasks.-1=3", "is not an index"),
        ("evaluate.tasks." + "9" * 5000 + "=3", "is not an index"),
        ("gate.fidelity.0.quant=gptq", "there is no list 'gate.fidelity' to take an entry of"),
        ("name.x=1", "'name' is a value, not a section"),
    ],
)
def test_a_key_that_leads_nowhere(override: str, said: str) -> None:
    (line,) = refused([override])
    assert said in line


KEYS = st.sampled_from(
    ["name", "train", "epochs", "lora", "target_modules", "evaluate", "tasks", "0", "1", "kind", "quantize",
     "gate", "fidelity", "prepare", "split", "source", "base", "chat_template", "promote", "", "\u00b2"]
)  # fmt: skip
ODD = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["2001-02-30", ".nan", "0x" + "f" * 5000, "1e999", "&a {b: *a}", "{1: 2}", "[{}]",
                     "~", "!!set {a}", "!!binary a", "{null: 1}", "12:30:45", "-.inf", "{<<: 3}",
                     "*x", "!!int ''"]),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ).map(lambda value: yaml.safe_dump(value, default_flow_style=True)),
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.lists(KEYS | st.text(max_size=5), min_size=1, max_size=4), ODD), max_size=3))
@example([(["prepare"], "!!binary a")])
@example([(["prepare", "system"], 'Answer: "yes" or no')])
def test_whatever_is_set_is_a_recipe_or_a_mistake_of_the_user(given: list[tuple[list[str], str]]) -> None:
    overrides = [f"{'.'.join(keys)}={value}" for keys, value in given]
    with contextlib.suppress(InvalidRecipe):
        recipe.load("demo", overrides)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ODD)
def test_whatever_is_yaml_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRecipe):
        parse_yaml(text)


def test_the_command_ends_with_3_and_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "pico-tenant", "--set", 'prepare.system=Answer: "yes" or no']) == 3
    said = capsys.readouterr().err
    assert said.startswith("tuneline: --set ")
    assert "defect" not in said
    assert len(said.splitlines()) == 1
