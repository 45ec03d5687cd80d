"""A policy file, a lineage that it can be asked about, and evaluations on plain directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry import Artifact, Registry
from tests.flows.evaluation_files import BAD, GOOD, POLICY, Lineage, evaluation, write


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., str]:
    def make(name: str = "policy.yaml", **changes: Any) -> str:
        (tmp_path / name).write_text(yaml.safe_dump({**POLICY, **changes}))
        return str(tmp_path / name)

    return make


@pytest.fixture
def lineage(registry: Registry) -> Lineage:
    """A lineage whose base is bad and whose merged model and GGUF are good."""
    made = Lineage(registry)
    for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
        made.evaluate(model, scores)
    return made


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "never"))
    write(tmp_path / "candidate", evaluation(GOOD))
    write(tmp_path / "baseline", evaluation(BAD))
    return str(tmp_path / "candidate"), str(tmp_path / "baseline")


@pytest.fixture
def adapter(lineage: Lineage) -> Artifact:
    """An adapter that is good on the NF4 base of its training, where alone it was measured."""
    lineage.evaluate(lineage.adapter, GOOD)
    return lineage.adapter
