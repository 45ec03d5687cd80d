"""Measures of hidden states: what a base makes of a text, and that the command compares it."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from flows import cli
from flows.drift import hidden
from flows.drift.comparison import DriftComparison
from flows.drift.measures import learn
from registry import Registry, Waiver
from registry.artifacts import QuantSpec
from stages.backends.hidden_states import LENGTHS, hidden_states
from stages.backends.tokenizer import load_tokenizer
from stages.contract import Parent
from tests.bench.drift import CHANGES, days
from tests.flows.evaluation_files import Lineage, parquet
from tests.flows.lineages import publish

WIDTH = 48
Command = Callable[..., tuple[int, Any, str]]


def normal(seed: int, count: int, **moved: float) -> dict[str, np.ndarray]:
    """Text → vector, of which the first places vary most; `moved`: by how much the first one is moved, and by
    how much all are stretched."""
    draw = np.random.default_rng(seed)
    spread = np.linspace(3, 0.2, WIDTH) * moved.get("stretched", 1.0)
    vectors = draw.standard_normal((count, WIDTH)) * spread
    vectors[:, 0] += 3 * moved.get("first", 0.0)
    return {f"{seed} {number}": vector.astype(np.float32) for number, vector in enumerate(vectors)}


def compared(
    reference: dict[str, np.ndarray], new: dict[str, np.ndarray], alpha: float = 0.05
) -> DriftComparison:
    comparison = DriftComparison(reference, alpha, [hidden.learner({**reference, **new})])
    comparison.add(new)
    return comparison


@pytest.mark.parametrize(
    ("moved", "measure"), [("first", "hidden state 1"), ("stretched", "hidden distance")]
)
def test_what_moved_is_found_and_named(moved: str, measure: str) -> None:
    state = compared(normal(1, 200), normal(2, 120, **{moved: 1.3})).state
    assert state.verdict == "drift"
    assert state.strongest.measure == measure
    assert len(state.measures) == hidden.AXES + 1


def test_while_nothing_changes_alarms_are_as_rare_as_stated() -> None:
    alarms = sum(
        compared(normal(seed, 100), normal(1000 + seed, 80), 0.2).state.verdict == "drift"
        for seed in range(100)
    )
    assert alarms <= 20


def test_places_are_in_standard_deviations_of_what_was_learned() -> None:
    vectors = normal(3, 400)
    measures = hidden.learner(vectors)(list(vectors))
    values = np.array([measures.of(text) for text in vectors])
    assert values[:, :-1].mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert values[:, :-1].std(axis=0, ddof=1) == pytest.approx(1, abs=1e-4)
    assert values[:, -1].mean() == pytest.approx(1, abs=0.1)


def test_vectors_that_are_all_the_same_tell_nothing() -> None:
    same = {str(number): np.ones(WIDTH, dtype=np.float32) for number in range(120)}
    reference, new = dict(list(same.items())[:60]), dict(list(same.items())[60:])
    assert compared(reference, new).state.verdict == "no drift shown"


def test_more_measures_share_the_risk() -> None:
    reference, *rest = list(days(4, CHANGES["inputs 30 % longer"], 4))
    new = [text for _, texts in rest for text in texts]
    draw = np.random.default_rng(0)
    vectors = {text: draw.standard_normal(WIDTH) for text in (*reference[0], *new)}
    alone, both = (
        DriftComparison(reference[0]),
        DriftComparison(reference[0], learners=[learn, hidden.learner(vectors)]),
    )
    alone.add(new)
    both.add(new)
    assert [m.measure for m in both.state.measures][: len(alone.state.measures)] == [
        m.measure for m in alone.state.measures
    ]
    strongest = max(m.log10_e for m in both.state.measures)
    assert both.state.log10_e == pytest.approx(strongest - np.log10(11), abs=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_has_the_mean_of_its_last_hidden_states_whatever_is_read_with_it(
    pico_base: Parent, dtype: str
) -> None:
    draw = random.Random(1)
    words = ["router", "invoice", "password", "broken", "the", "again", "why", "slow"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(90)]
    texts += ["", "\ud800 half", "x " * 500]
    found = hidden_states(pico_base.path, dtype, texts)
    turned = hidden_states(pico_base.path, dtype, texts[::-1])[::-1]
    few = hidden_states(pico_base.path, dtype, texts[:7])
    assert np.array_equal(found, turned)
    assert np.array_equal(found[:7], few)
    model = AutoModelForCausalLM.from_pretrained(pico_base.path, dtype=torch.float32)
    tokenizer = load_tokenizer(pico_base.path)
    for number in (0, 1, 2, 92):
        ids = torch.tensor([tokenizer(texts[number])["input_ids"][: LENGTHS[-1]]])
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states[-1][0]
        near = 1e-5 if dtype == "float32" else 0.05
        assert found[number] == pytest.approx(states.mean(dim=0).numpy(), abs=near)
    assert np.isfinite(found).all()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["drift", *words])
        out, err = capsys.readouterr()
        assert not list((tmp_path / "temporary").iterdir()), "what users wrote stays nowhere"
        return code, json.loads(out) if "--json" in words else out, err

    return run


@pytest.fixture
def dataset(tmp_path: Path, pico_base: Parent) -> str:
    """The id of a dataset that was tokenized for a real base."""
    reference, _ = next(days(7, CHANGES["none"], 0))
    files = {file.name: file.read_bytes() for file in pico_base.path.iterdir() if file.is_file()}
    with Registry.open(tmp_path / "home") as registry:
        base = publish(
            registry, "base", "resolve", files, base=pico_base.base, quant=QuantSpec(method="none")
        )
        prepared = {"train.parquet": parquet(reference[:120])}
        return publish(registry, "dataset", "prepare", prepared, (("tokenized_for", base),)).id


def written(path: Path, rows: list[str]) -> str:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in rows))
    return str(path)


def test_the_command_compares_the_bases_hidden_states(dataset: str, command: Command, tmp_path: Path) -> None:
    _, (_, same) = days(8, CHANGES["none"], 1)
    monday = written(tmp_path / "monday.jsonl", same)
    other = written(tmp_path / "tuesday.jsonl", [f"Zebras {number} crossing" for number in range(60)])
    code, document, err = command(dataset, "--new", monday, "--hidden-states", "--json")
    assert code == 0
    assert err.startswith("tuneline: reading 160 texts with the base ")
    assert [m["measure"] for m in document["measures"]][-5:] == [
        *(f"hidden state {number}" for number in range(1, 5)), "hidden distance",
    ]  # fmt: skip
    code, later, _ = command(dataset, "--new", monday, other, "--hidden-states", "--json")
    assert code == 1
    assert later["files"][0]["state"] == document["files"][0]["state"], "yesterday's answer stays"
    highest = {m["measure"]: m["highest_log10_e"] for m in later["measures"]}
    assert highest["hidden distance"] > 1.3


def test_a_base_that_is_not_there_or_cannot_read_gets_one_message(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, _ = next(days(7, CHANGES["none"], 0))
    with Registry.open(tmp_path / "home") as registry:
        made = Lineage(registry, reference)
        alone = publish(registry, "dataset", "prepare", {"train.parquet": parquet(reference, "other")})
        registry.channels.move("team/prod", made.gguf.id, 0, waiver=Waiver("a trial", "tests"))
    new = written(tmp_path / "new.jsonl", ["a b c"])
    code, _, err = command(alone.id, "--new", new, "--hidden-states")
    assert code == 3
    assert "the registry does not know the base of" in err
    code, _, err = command("team/prod", "--new", new, "--hidden-states")
    assert code == 3
    assert "model.safetensors is not a complete safetensors file" in err
    monkeypatch.setattr(hidden, "is_light", lambda: True)
    code, _, err = command("team/prod", "--new", new, "--hidden-states")
    assert code == 3
    assert err.startswith("tuneline: --hidden-states needs torch")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (-9, "", "killed by signal 9, most often for lack of memory"),
        (1, "Traceback\nValueError: no such shape", "ValueError: no such shape"),
        (0, "", "status 0"),
    ],
)
def test_a_process_that_ends_without_vectors_is_explained(
    dataset: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    said: str,
    why: str,
) -> None:
    ended = subprocess.CompletedProcess[str]([], status, "", said)
    monkeypatch.setattr(
        "flows.drift.hidden.measured_speed", lambda *_: SimpleNamespace(device="cpu", compute_dtype="float32")
    )
    monkeypatch.setattr("flows.drift.hidden.subprocess.run", lambda *_, **__: ended)
    code, _, err = command(dataset, "--new", written(tmp_path / "new.jsonl", ["a b"]), "--hidden-states")
    assert code == 3
    assert f"the base cannot read the texts: {why}" in err.replace("its process was ", "")
