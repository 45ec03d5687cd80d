"""Rows, tokens and passes are counted as they will be computed: by hand, and as the demo recorded them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from flows import recipe as recipes
from flows.planning import timed
from flows.planning.amounts import TrainingAmounts, training_amounts
from flows.planning.evaluations import evaluation_work, forms, splits
from flows.planning.rates import ComputeRates
from flows.planning.rows import RowFigures, row_figures, training_bytes
from flows.planning.timed import Fit, PassTimes, pass_times, time_first
from stages import work
from stages.arithmetic import kept_speed
from stages.backends import block
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.model_shape import describe_base
from stages.work import Through, Work

PICO = describe_base("pico:0")
PARTS = set(PassTimes.model_fields) - {"disturbed"}
WIDTHS = {
    "hidden": 32, "intermediate": 64, "heads": 2, "kv_heads": 1, "head_size": 16, "vocabulary": 100,
    "layers": 2,
}  # fmt: skip


def chat(question: str, answer: str) -> str:
    return json.dumps({"messages": [
        {"role": "system", "content": "Be short. "}, {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]})  # fmt: skip


def test_rows_are_counted_without_those_that_are_dropped(tmp_path: Path) -> None:
    rows = [
        chat("a" * 40, "x red y"),
        chat("b" * 80, "x blue y"),
        chat("a" * 40, "x red y"),
        chat("c" * 900, "x y"),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    found = row_figures(PrepareConfig(source=f"path:{tmp_path / 'rows.jsonl'}", max_length=100))
    # 10 bytes of system and 40 or 80 of a question, four a token; 5 around each, 3 for the answer's header
    assert found == RowFigures(
        rows=2, prompt=15 + 2.5 + 5 + 5 + 3, answer=7.5 / 4 + 2, longest_answer=4.0, shared=2.5 + 8,
        choices=(1.0, 1.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rows", "tokens"),
    [("demo", 1543, 48_548), ("pico-smoke", 149, 4175)],
)
def test_a_recipe_s_tokens_are_near_those_that_its_run_trained_on(name: str, rows: int, tokens: int) -> None:
    """Both as recorded by runs of the recipes."""
    recipe = recipes.load(name)
    figures = row_figures(recipe.prepare)
    amounts = training_amounts(recipe, figures)
    assert figures is not None
    assert amounts is not None
    assert figures.rows == pytest.approx(rows, rel=0.02)
    assert amounts.tokens == pytest.approx(tokens, rel=0.15)


def test_what_training_passes_through_the_model() -> None:
    recipe = recipes.load("demo", ["train.epochs=2", "train.batch_size=4"])
    amounts = training_amounts(recipe, RowFigures(rows=1000, prompt=30, answer=10))
    # of 1000 rows 800 are trained on twice, and 50 checked three times
    assert amounts is not None
    assert vars(amounts) == pytest.approx(
        {"tokens": 64_000, "passes": 400, "learned": 16_000, "checks": 6000}
    )
    amounts = TrainingAmounts(tokens=64_000, passes=400, learned=16_000, checks=6000)
    through = amounts.work(PICO, checkpointing=True).through
    assert through == Through(
        layers=2, read_passes=400, read_tokens=64_000, adapted_passes=18.75, adapted_tokens=6000,
        trained_passes=400, trained_tokens=64_000, compared=1500, learned=16_000,
    )  # fmt: skip


def test_what_an_evaluation_passes_through_its_models() -> None:
    recipe = recipes.load("demo", ["evaluate.questions=[]"])
    held = splits(recipe, RowFigures(320, 30, 8, longest_answer=9, shared=12, choices=(3, 1, 1)))
    base, tuned, *_, choice = [evaluation_work(PICO, form, held, 128) for form in forms(recipe)]
    assert len(forms(recipe)) == 7
    assert base is not None
    assert tuned is not None
    assert choice is not None
    # 48 rows in 3 batches: 12 passes each for their answers, 3 for the choice; 18 new tokens of each prompt
    assert base.through == Through(
        layers=2, read_passes=3 * 12 + 3 * 3, read_tokens=48 * (18 + 12) + 48 * (18 + 2),
        answer_passes=36, answered=48 * 12, compared=48 * 3,
    )  # fmt: skip
    assert tuned.through is not None
    assert tuned.through.adapted_passes == 3 * 9 + 3 * 3 + 9
    # 40 chats of 38 tokens by each of two models
    assert (tuned.through.read_passes, tuned.through.read_tokens) == (9, 40 * 38)
    assert tuned.through.compared == 48 * 3 + 40 * 37 * (1 + 2)
    assert choice.through is not None
    assert choice.through.read_tokens == 2 * 16 * 38


def times(read: float = 0.0, trained: float = 0.0, learned: float = 0.0) -> PassTimes:
    parts = {
        "read": read,
        "adapted": 0.0,
        "trained": trained,
        "answered": 0.0,
        "compared": 0.0,
        "learned": learned,
    }
    return PassTimes(**{name: Fit(once=value, each=value / 100) for name, value in parts.items()})


def test_what_was_timed_goes_before_counted_operations() -> None:
    through = Through(layers=3, trained_passes=10, trained_tokens=1000, learned=500)
    asked = Work(forward=1e15, backward=1e15, beside=1e15, serial=100e9, through=through)
    rates = ComputeRates(timed={"bfloat16": times(trained=0.1, learned=0.2)})
    # 3 layers of (10 · 0.1 + 1000 · 0.001), the head 10 · 0.2 + 500 · 0.002, and a second of one core
    assert rates.seconds(asked, "auto") == pytest.approx(3 * 2 + 3 + 1)
    assert rates.seconds(asked, "float32") > rates.seconds(asked, "bfloat16")


def test_works_add_up() -> None:
    one = work.training(PICO, 1000, False)
    assert one.plus(one) == one.times(2)
    assert one.plus(Work(serial=5.0)).through == one.through


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_block_is_timed_in_every_way_that_it_is_computed(dtype: str) -> None:
    found = block.measure(WIDTHS, dtype, seconds=1.0)
    assert isinstance(found.pop("disturbed"), bool)
    assert set(found) == PARTS
    assert all(once >= 0 and each >= 0 and once + each > 0 for once, each in found.values())


def test_times_are_kept_and_of_a_wider_model_in_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"float32": {name: [1.0, 0.5] for name in PARTS}})
    asked: list[dict[str, Any]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(json.loads(command[-1]))
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{answer}\n")

    monkeypatch.setattr(timed, "identity", lambda: ("0" * 64, "a processor"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(timed, "WIDEST", 128)
    for _ in range(2):
        found = pass_times(PICO, "float32", tmp_path)
    assert len(asked) == 1
    assert (asked[0]["widths"]["hidden"], asked[0]["widths"]["intermediate"]) == (128, 256)
    # two heads and a half as wide: 49,152 · 128 numbers of a head, half of them
    assert found["float32"].answered == Fit(once=2.0, each=1.0)
    # 589,824 weights of a block beside 128 · 64 · 2 · 3 + 3 · 128 · 256
    assert found["float32"].read.once == pytest.approx(589_824 / 147_456)


def test_without_an_answer_nothing_was_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 1, stdout="")
    monkeypatch.setattr(timed, "identity", lambda: ("0" * 64, "a processor"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert pass_times(PICO, "float32", tmp_path) == {}


def test_times_that_other_work_disturbed_are_kept_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        json.dumps({"float32": {**{part: [1.0, 0.5] for part in PARTS}, "disturbed": disturbed}})
        for disturbed in (False, True)
    ]
    monkeypatch.setattr(timed, "identity", lambda: ("0" * 64, "a processor"))
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=answers.pop())
    )
    for _ in range(2):
        assert pass_times(PICO, "float32", tmp_path)["float32"].disturbed
    (kept,) = tmp_path.iterdir()
    os.utime(kept, (time.time() - 3601, time.time() - 3601))
    assert not pass_times(PICO, "float32", tmp_path)["float32"].disturbed
    os.utime(kept, (0, 0))
    assert not pass_times(PICO, "float32", tmp_path)["float32"].disturbed, "kept for good"


def test_the_first_time_both_types_and_a_block_are_timed_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    rates = {"forward": 2e9, "grad_input": 2e9, "grad_weight": 2e9}
    speed = {
        "identity": "0" * 64, "processor": "x", "device": "cpu", "threads": 2, "product": (1, 256, 512),
        "float32": rates, "bfloat16": rates, "native_bfloat16": False,
    }  # fmt: skip

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(json.loads(command[-1]))
        answer = {"speed": speed, "float32": {part: [1.0, 0.5] for part in PARTS}}
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(answer))

    for module in ("flows.planning.timed", "stages.arithmetic"):
        monkeypatch.setattr(f"{module}.identity", lambda: ("0" * 64, "a processor"))
    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        time_first(PICO, tmp_path)
    found = kept_speed(256, 512, tmp_path)
    assert found is not None
    assert (found.compute_dtype, found.float32.forward) == ("float32", 2e9)
    assert pass_times(PICO, "float32", tmp_path)["float32"].read.once > 0
    (one,) = asked
    assert one["product"] == [256, 512]


def test_where_the_first_measurement_fails_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("flows.planning.timed", "stages.arithmetic"):
        monkeypatch.setattr(f"{module}.identity", lambda: ("0" * 64, "a processor"))
    failed: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 1, stdout="no torch")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    time_first(PICO, tmp_path)
    assert list(tmp_path.iterdir()) == []


PAIRS = ("prepare.format=preferences", "train.method=dpo", "train.dpo.epochs=2", "train.dpo.batch_size=4")


def test_a_pair_is_two_rows_and_the_reference_reads_each_once() -> None:
    recipe, figures = recipes.load("demo", [*PAIRS]), RowFigures(rows=1000, prompt=30, answer=10)
    first, pairs = (recipe.model_copy(update={"train": one}) for one in recipe.train.trainings)
    amounts = training_amounts(pairs, figures)
    # 800 pairs of 80 tokens twice; 50 are checked three times, and all 850 are read by the reference
    assert amounts is not None
    assert vars(amounts) == pytest.approx(
        {"tokens": 128_000, "passes": 400, "learned": 32_000, "checks": 80_000}
    )
    assert training_amounts(first, figures) == training_amounts(recipes.load("demo"), figures)


def test_each_pair_s_prompt_is_read_once_with_both_answers() -> None:
    tasks = "evaluate.tasks=[{kind: preference}]"
    without = ("evaluate.questions=[]", "gate=null", "promote=null", "deploy=null")
    recipe = recipes.load("demo", [*PAIRS, *without, tasks])
    held = splits(recipe, RowFigures(320, 30, 8, longest_answer=9, shared=12))
    asked = forms(recipe)
    assert len(asked) == 8, "what the training on preferences began with, too"
    base, started, tuned = (evaluation_work(PICO, form, held, 128) for form in asked[:3])
    assert base is not None
    assert base.through == Through(layers=2, read_passes=3 * 3, read_tokens=48 * (18 + 16), compared=48 * 16)
    assert started is not None
    assert tuned is not None
    assert started.through is not None
    assert tuned.through is not None
    assert tuned.through.compared - started.through.compared == 40 * 37 * 2, "and held against that"


def test_good_and_bad_answers_are_each_read_once_after_their_prompt() -> None:
    labels = ("prepare.format=unpaired-preferences", "evaluate.tasks=[{kind: labelled, max_items: 20}]")
    recipe = recipes.load(
        "demo", [*labels, "evaluate.questions=[]", "gate=null", "promote=null", "deploy=null"]
    )
    held = splits(recipe, RowFigures(320, 30, 8, longest_answer=9, shared=12, undesirable=80))
    base = evaluation_work(PICO, forms(recipe)[0], held, 128)
    assert base is not None
    # 20 of the 48 good ones that are held out, and all 12 bad ones
    assert base.through == Through(layers=2, read_passes=2 * 3, read_tokens=32 * (18 + 8), compared=32 * 8)


def test_rows_of_a_training_count_where_they_are_many() -> None:
    config, pairs, labelled = TrainConfig(epochs=1), TrainConfig(method="orpo"), TrainConfig(method="kto")
    assert training_bytes(None, config) == training_bytes(RowFigures(1000, 50, 50), config) == (0, 0)
    assert training_bytes(RowFigures(1e6, 50, 50), config) == (0, 400_000_000)
    assert training_bytes(RowFigures(2e6, 50, 50), TrainConfig(epochs=3)) == (480_000_000, 800_000_000)
    assert training_bytes(RowFigures(1e6, 50, 50), pairs.as_run)[1] == 800_000_000
    both = RowFigures(1e6, 50, 50, undesirable=2e6)
    assert training_bytes(both, labelled.as_run) == (1_200_000_000, 1_200_000_000)
