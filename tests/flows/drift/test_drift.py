"""Drift of inputs: no alarm without a change, each kind of change found, and what the command says."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.drift.comparison import DriftComparison
from flows.drift.measures import learn
from flows.errors import Usage
from registry import Registry, Waiver
from registry.schedules.schedules import checked
from tests.bench.drift import CHANGES, Source, days
from tests.flows.evaluation_files import Lineage


def texts(seed: int, change: str | Source, count: int = 5) -> tuple[list[str], list[list[str]]]:
    reference, *rest = list(days(seed, CHANGES[change] if isinstance(change, str) else change, count))
    return reference[0], [new for _, new in rest]


def test_no_alarm_without_a_change_and_each_kind_of_change_is_found_and_named() -> None:
    for change, measure in (
        ("none", None),
        ("inputs 30 % longer", "length"),
        (Source(new_words=0.15), "new words"),
        ("a topic from 20 to 40 %", "topic"),
    ):
        reference, new = texts(1, change, 15)
        comparison = DriftComparison(reference)
        for day in new:
            comparison.add(day)
        state = comparison.state
        assert (state.verdict == "drift") == (measure is not None), change
        if measure is not None:
            strongest = max(state.measures, key=lambda found: found.highest_log10_e)
            assert strongest.measure.startswith(measure)
            assert state.highest_log10_e >= 1.3


def test_a_day_at_a_time_or_all_at_once_is_the_same() -> None:
    reference, new = texts(4, "inputs 30 % longer")
    daily, whole = DriftComparison(reference), DriftComparison(list(reversed(reference)))
    for day in new:
        daily.add(day)
    whole.add(text for day in new for text in day)
    assert daily.state == whole.state


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2])
def test_an_impossible_risk_and_too_few_rows_are_refused(alpha: float) -> None:
    with pytest.raises(Usage, match="between 0 and 1"):
        DriftComparison([f"text {number}" for number in range(100)], alpha)
    with pytest.raises(Usage, match="have 39 different inputs"):
        DriftComparison([f"text {number}" for number in range(39)] * 5)


def test_texts_without_words_and_long_ones_have_measures_too() -> None:
    measures = learn(["a b c", "b c d", "?!", ""])
    assert measures.of("")[:2] == [0.0, 0.0]
    assert measures.of("x " * 100_000)[0] == 2000
    with pytest.raises(ValueError, match="no text has a word"):
        learn(["", " "])


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any, str]]:
    reference, _ = texts(7, "none")
    with Registry.open(tmp_path / "home") as registry:
        made = Lineage(registry, reference)
        registry.channels.move("team/prod", made.gguf.id, 0, waiver=Waiver("a trial", "tests"))
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["drift", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def day(path: Path, rows: list[str]) -> str:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in rows))
    return str(path)


def test_the_command_compares_a_channels_training_data_with_files(
    command: Callable[..., tuple[int, Any, str]], tmp_path: Path
) -> None:
    _, same = texts(8, "none")
    _, changed = texts(9, "inputs 30 % longer", 6)
    quiet = day(tmp_path / "monday.jsonl", same[0])
    loud = day(tmp_path / "tuesday.jsonl", [text for rows in changed for text in rows])
    code, out, _ = command("team/prod", "--new", quiet)
    assert code == 0
    assert "no drift shown after 40 rows" in out
    code, out, _ = command("team/prod", "--new", quiet, loud, quiet, "--json")
    assert code == 1
    document = json.loads(out)
    assert document["verdict"] == "drift"
    assert [file["distinct"] for file in document["files"]] == [40, 240, 0], "a row counts once"
    assert document["files"][0]["state"]["verdict"] == "no drift shown"
    assert 40 < document["first_row"] <= 280


def test_drift_asks_the_schedules_that_wait_for_it_once(
    command: Callable[..., tuple[int, Any, str]], tmp_path: Path
) -> None:
    recipe = {"name": "r", "promote": {"channel": "team/prod"}}
    definitions = {
        "waits": {"channels": ("team/prod",), "triggers": ({"on": "drift"},)},
        "elsewhere": {"channels": ("team/other",), "triggers": ({"on": "drift"},)},
        "nightly": {"channels": ("team/prod",), "triggers": ({"on": "cron", "at": "0 3 * * *"},)},
    }
    with Registry.open(tmp_path / "home") as registry:
        for name, values in definitions.items():
            definition = checked(recipe_name="r.yaml", recipe=recipe, **values)
            registry.schedules.put(name, definition, "ada", replace=False)
    _, changed = texts(9, "inputs 30 % longer", 6)
    new = day(tmp_path / "tuesday.jsonl", [text for rows in changed for text in rows])
    for _ in range(2):
        code, out, _ = command("team/prod", "--new", new)
        assert code == 1
        assert "asked for a run: waits;" in out
    with Registry.open(tmp_path / "home") as registry:
        (occasion,) = registry.occasions.asked("waits")
        assert occasion.trigger == "drift"
        assert occasion.why == "inputs of team/prod changed, strongest in: length"
        assert not registry.occasions.asked("elsewhere")
        assert not registry.occasions.asked("nightly")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("new.jsonl", '{"prompt": "a"}\n{"prompt": ""}\n', "line 2 has no input"),
        ("new.jsonl", '{"prompt": "a"}\n{"prom', "line 2: malformed JSON"),
        ("new.doc", "x", "ends with one of"),
        ("new.jsonl", None, "no such file"),
    ],
)
def test_bad_files_get_one_message(
    command: Callable[..., tuple[int, Any, str]], tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    code, _, err = command("team/prod", "--new", str(tmp_path / name))
    assert code == 3
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_what_has_no_training_data_is_refused(
    command: Callable[..., tuple[int, Any, str]], tmp_path: Path
) -> None:
    new = day(tmp_path / "new.jsonl", ["a"])
    assert command("team/none", "--new", new)[0] == 3
    assert command("0" * 12, "--new", new)[0] == 3


def test_messages_are_read_without_system_and_answers(
    command: Callable[..., tuple[int, Any, str]], tmp_path: Path
) -> None:
    row = [
        {"role": "system", "content": "never " * 50},
        {"role": "user", "content": "w1 w2"},
        {"role": "assistant", "content": "never " * 50},
    ]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": row}) + "\n")
    code, out, _ = command("team/prod", "--new", str(tmp_path / "chat.jsonl"), "--json")
    assert code == 0
    length = next(m for m in json.loads(out)["measures"] if m["measure"] == "length")
    assert length["new"] == 2


def test_all_measures_together_say_no_more_than_the_strongest_shared_among_all() -> None:
    """Their mean exceeds a limit at some time or other more often than any bound says."""
    reference, new = texts(2, "inputs 30 % longer", 2)
    comparison = DriftComparison(reference)
    comparison.add(text for day in new for text in day)
    state = comparison.state
    strongest = max(measure.log10_e for measure in state.measures)
    assert state.log10_e == pytest.approx(strongest - math.log10(len(state.measures)), abs=2e-4)


def test_ties_are_broken_alike_for_the_same_reference_rows_only() -> None:
    def of(seed: int) -> float:
        draw, words = random.Random(seed), [f"w{number}" for number in range(10)]
        comparison = DriftComparison([" ".join(draw.sample(words, 10)) for _ in range(60)])
        comparison.add(" ".join(draw.sample(words, 10)) for _ in range(30))
        (length,) = (measure for measure in comparison.state.measures if measure.measure == "length")
        return length.log10_e

    assert of(1) == of(1)
    assert of(1) != of(2), "every length is the same, so lots alone decide"
