"""How near answers are to their references, by the hidden states of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.evaluation_results import read_items, read_results
from stages.backends import hidden_states as states_of
from stages.backends.evaluate.embedding import Embedder, embedder_of, similarities
from stages.backends.hidden_states import LENGTHS, LONGER, hidden_states
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.scoring.user_function import Answered
from tests.stages.backends.evaluate.asking import NF4, config, run, write_dataset
from tests.stages.backends.evaluate.test_heldout_metrics import spoken

pytestmark = pytest.mark.usefixtures("one_thread")


def answered(answer: str, *references: str) -> Answered:
    return Answered(answer, references, [])


def test_the_cosine_is_of_states_less_the_mean_of_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"a": [1.0, 0.0], "b": [0.0, 1.0], "near a": [2.0, 0.0], "middle": [0.5, 0.5]}
    monkeypatch.setattr(
        states_of, "hidden_states", lambda _, __, texts, ___: np.array([states[text] for text in texts])
    )
    items = [
        answered("near a", "a"), answered("b", "b"), answered("a", "b"), answered("a", "b", "a"),
        answered("middle", "a"),
    ]  # fmt: skip
    found = similarities(Embedder(Path(), "w", "float32"), items)
    near = np.array([1.5, -0.5]) @ np.array([0.5, -0.5]) / np.sqrt(2.5 * 0.5)
    assert found == pytest.approx([near, 1.0, -1.0, 1.0, 0.0]), "the best reference counts; no direction is 0"
    alone = similarities(Embedder(Path(), "w", "float32"), [answered("middle", "a")])
    assert alone == pytest.approx([np.sqrt(0.5)]), "one reference has no mean to be taken away"


def test_the_same_base_embeds_the_answers_of_every_form(
    tmp_path: Path, pico_base: Parent, pico_gguf: Parent
) -> None:
    task = HeldoutTask.model_validate({"name": "t", "max_new_tokens": 4, "metrics": ["embedding"]})
    data = write_dataset(tmp_path / "data", [spoken(f"ask {k}", f"yes {k}") for k in range(3)])
    results = []
    for name, given, more in (
        ("nf4", {"nf4": NF4}, {}),
        ("gguf", {}, {"model": pico_gguf, "base": pico_base}),
    ):
        _, out = run(
            tmp_path, name, {"model": pico_base, "dataset": data} | more, config(tasks=(task,), **given)
        )
        result: Any = read_results(out)["tasks"]["t"]
        assert result["metrics"]["embedding"]["unit"] == "of 1"
        assert all(-1 <= item["scores"]["embedding"] <= 1 for item in read_items(out, result))
        results.append((result["embedded_with"], result["config_digest"]))
    assert results[0] == results[1]
    assert results[0][0]["dtype"] == "float32"


def test_without_a_base_beside_it_a_model_is_refused_before_it_is_opened(pico_gguf: Parent) -> None:
    asking = EvaluateConfig.model_validate({"tasks": [{"metrics": ["embedding"]}]})
    with pytest.raises(InvalidInput, match=r"metric embedding: the quantized 999\w+ has no base beside it"):
        embedder_of(asking, {"model": pico_gguf})
    assert embedder_of(EvaluateConfig(), {"model": pico_gguf}) is None


def test_longer_texts_are_cut_later_and_short_ones_have_the_same_states(pico_base: Parent) -> None:
    long = "one two three " * 60
    short, cut = hidden_states(pico_base.path, "float32", ["a few words", long])
    same, whole = hidden_states(pico_base.path, "float32", ["a few words", long], LONGER)
    assert LONGER[: len(LENGTHS)] == LENGTHS
    assert np.array_equal(short, same)
    assert not np.allclose(cut, whole)
