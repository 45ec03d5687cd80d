"""Recipes: what is shipped is valid, what is wrong is said at its path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.errors import InvalidRecipe
from flows.recipe import load, shipped

KEEP = {"task": "routing", "metric": "exact_match", "role": "keep", "against": "parent", "margin": 0.1}
MINIMAL = {"name": "mine", "base": {"source": "pico:0"}, "prepare": {"source": "path:data.jsonl"}}


def written(tmp_path: Path, **changes: object) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return str(path)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load(name).name == name


def test_five_recipes_are_shipped() -> None:
    assert set(shipped()) >= {"demo", "pico-smoke", "pico-tenant", "llama-8b-gptq", "llama-70b-single-gpu"}


def test_big_recipes_follow_qlora_practice() -> None:
    train = load("llama-70b-single-gpu").train
    assert (train.lora.rank, train.lora.alpha, train.lora.target_modules) == (64, 16, "all-linear")
    assert train.optimizer == "paged_adamw_32bit"
    assert train.gradient_checkpointing
    assert (train.schedule, train.learning_rate) == ("cosine", 2e-4)
    assert (train.batch_size, train.gradient_accumulation) == (1, 16)
    assert (train.nf4.quant_type, train.nf4.double_quant) == ("nf4", True)
    assert train.nf4.compute_dtype == "auto"


def test_defaults_are_rank_16_alpha_32(tmp_path: Path) -> None:
    lora = load(written(tmp_path)).train.lora
    assert (lora.rank, lora.alpha) == (16, 32)


def test_paths_are_seen_from_the_recipe(tmp_path: Path) -> None:
    assert load(written(tmp_path)).prepare.source == f"path:{tmp_path / 'data.jsonl'}"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"train": {"lora": {"rnak": 8}}}, ["train.lora.rnak: unknown key", "did you mean 'rank'?"]),
        ({"trian": {}}, ["trian: unknown key", "did you mean 'train'?"]),
        ({"quantize": [{"method": "gptq", "bit": 4}]}, ["quantize.0", "bit: unknown key", "'bits'?"]),
        ({"evaluate": {"tasks": [{"kind": "lm-eval", "nam": "x", "name": "y"}]}}, ["nam: unknown", "'name'"]),
        ({"base": {"source": "pico:0", "trust_remote_code": True}}, ["never runs code", "remove the key"]),
        ({"train": {"nf4": {"quant_type": "fp4"}}}, ["train.nf4.quant_type", "always uses nf4"]),
        (
            {"train": {"nf4": {"compute_dtype": "float16"}}},
            ["train.nf4.compute_dtype", "use auto, bfloat16 or float32"],
        ),
        ({"train": {"epochs": "many"}}, ["train.epochs", "'many'"]),
        ({"base": {"source": "meta/llama"}}, ["base.source", "hub:ORG/NAME@REVISION"]),
        ({"promote": {"channel": "a/b"}}, ["promote needs a gate"]),
        ({"adapter": {"base": "Q4_X"}}, ["adapter.base", "no GGUF type 'Q4_X'"]),
        ({"adapter": {"type": "Q4_K_M"}}, ["adapter.type", "'F16'", "found 'Q4_K_M'"]),
        ({"adapter": {"base": "16bit", "type": "F16"}}, ["adapter: type F16 is of a GGUF", "take type out"]),
        (
            {"gate": {"tasks": [KEEP]}, "promote": {"channel": "a/b", "candidate": "adapter"}},
            ["promote.candidate is 'adapter'; this recipe makes: gguf-q4_k_m, merged"],
        ),
        (
            {
                "gate": {"tasks": [KEEP]}, "promote": {"channel": "a/b", "candidate": "adapter"},
                "adapter": {}, "deploy": {},
            },
            ["take deploy out (deploy: null); adapters are served by `tuneline serve`"],
        ),
        (
            {"gate": {"tasks": [KEEP], "max_latency_ms": 100}},
            ["gate.max_latency_ms: a run gates before it deploys", "`tuneline gate POLICY --latency FILE`"],
        ),
        ({"train": {"max_length": 8}}, ["train.max_length (8)", "make them equal"]),
        ({"quantize": [{"method": "gguf"}, {"method": "gguf"}]}, ["two quantize entries", "gguf-q4_k_m"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, section: dict[str, object], expected: list[str]) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(written(tmp_path, **section))
    for words in expected:
        assert words in str(caught.value)


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(written(tmp_path, train={"epochs": -1, "batch_size": 0, "sede": 3}))
    assert len(str(caught.value).splitlines()) == 4


def test_duplicate_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(InvalidRecipe, match=r"line 2: duplicate key 'name'"):
        load(str(path))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1, 2", ""])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRecipe, match=r"odd\.yaml"):
        load(str(path))


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InvalidRecipe, match="did you mean 'demo'"):
        load("demoo")


def test_overrides() -> None:
    recipe = load("demo", ["train.epochs=2.5", "quantize.1.type=Q5_K_M", "promote.candidate=gguf-q5_k_m"])
    assert recipe.train.epochs == 2.5
    assert recipe.quantize[1].label == "gguf-q5_k_m"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "expected KEY.PATH=VALUE"),
        ("quantize.9.type=F16", "not an index of a list of 3 entries"),
        ("name.x=1", "is a value, not a section"),
        ("train.lora.ranks=4", "did you mean 'rank'?"),
    ],
)
def test_bad_override(override: str, expected: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load("demo", [override])
    assert expected in str(caught.value)


def test_a_file_of_a_metric_is_seen_from_the_recipe_s_folder(tmp_path: Path) -> None:
    metrics = ["exact", {"kind": "json_schema", "path": "order.json"}]
    (task,) = load(written(tmp_path, evaluate={"tasks": [{"metrics": metrics}]})).evaluate.tasks
    assert task.metrics[1].path == str(tmp_path / "order.json")  # type: ignore[union-attr]


def test_files_of_a_judge_and_of_labels_are_seen_from_the_recipe_s_folder(tmp_path: Path) -> None:
    judge = {"kind": "judge", "compare": "pairwise", "answers": "old.jsonl", "gguf": "judge.gguf"}
    tree = {"evaluate": {"tasks": [{"metrics": ["exact", judge]}]}}
    metric = load(written(tmp_path, **tree)).evaluate.tasks[0].metrics[1]  # type: ignore[union-attr]
    assert (metric.answers, metric.gguf) == (str(tmp_path / "old.jsonl"), str(tmp_path / "judge.gguf"))  # type: ignore[union-attr]
    assert metric.prompt == "builtin:1"  # type: ignore[union-attr]
