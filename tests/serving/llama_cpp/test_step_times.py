"""Steps of a real model, timed within their time box."""

from __future__ import annotations

from pathlib import Path

from serving.llama_cpp.blank_adapter import write_blank_adapter
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.step_times import measure
from tests.serving.canaries import Family


def test_the_model_is_timed_with_and_without_an_adapter(family: Family, tmp_path: Path) -> None:
    model = LlamaModel(family.gguf, context_length=641, sequences=3, threads=1)
    try:
        file = tmp_path / "adapter.gguf"
        write_blank_adapter(family.gguf, 8, file)
        model.use(model.load_adapter(file))
        found = measure(model, 3, seconds=1.0)
    finally:
        model.close()
    assert [count for count, _ in found["rows"]] == [1, 2, 3]
    assert found["prompt"][0][0] == 32
    assert all(seconds > 0 for _, seconds in (*found["rows"], *found["prompt"]))


def test_without_time_a_single_step_speaks_for_all(family: Family) -> None:
    model = LlamaModel(family.gguf, context_length=641, sequences=2, threads=1)
    try:
        found = measure(model, 2, seconds=0.0)
    finally:
        model.close()
    assert len(found["rows"]) == 1
    assert found["prompt"] == []
