"""A whole model is served only if it says what it said when it was evaluated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from serving.engine.answer_check import ExpectedAnswer, recorded_answers
from serving.engine.settings import EngineSettings
from serving.errors import NotServable
from serving.llama_cpp.engine import LlamaCppEngine
from tests.e2e.conftest import Tuneline

Pico = tuple[Tuneline, dict[str, Any]]
SETTINGS = EngineSettings(context_length=256, parallel=1, adapters=0, threads=1)


@pytest.fixture(scope="module")
def registry(tenant: Pico) -> Registry:
    """With a finished run of `pico-smoke` and of `pico-tenant`, which makes a GGUF of the base."""
    return Registry.open(tenant[0].home)


def start(file: Path, recorded: list[ExpectedAnswer], log: Path) -> None:
    async def run() -> None:
        async with LlamaCppEngine("a" * 64, file, SETTINGS, log, recorded) as engine:
            assert engine.up

    asyncio.run(run())


def test_the_promoted_model_is_served_and_its_base_in_its_place_is_not(
    registry: Registry, tmp_path: Path
) -> None:
    promoted, base = registry.get("pico/smoke"), registry.get("pico-0-q8_0@1")
    recorded = recorded_answers(registry, promoted)
    assert len(recorded) == 8
    assert all(one.messages[-1]["role"] == "user" and one.answer for one in recorded)
    start(registry.view(promoted.id), recorded, tmp_path / "log")
    with pytest.raises(NotServable, match=r"none of 8 held-out questions .* another model may be answering"):
        start(registry.view(base.id), recorded, tmp_path / "log")


def test_what_was_only_measured_beside_another_has_no_answers_of_its_own(registry: Registry) -> None:
    assert recorded_answers(registry, registry.get("pico-0-q8_0@1")) == []
    evaluation = registry.evaluations(registry.get("pico/smoke").id)[0]
    root = next(p.id for p in evaluation.manifest.parents if p.relation == "tokenized_for")
    assert recorded_answers(registry, registry.get(root)) == []
