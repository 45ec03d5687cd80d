"""What became of one step of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["base", "started", "tuned", "merged", "quantized", "apart", "endpoint"]
"""A form of the model, as reports call it; `started`: what training on preferences began with; `apart`: the
adapter over the base that it is served on."""
State = Literal["ran", "reused", "failed", "interrupted", "skipped", "pruned"]


@dataclass(frozen=True)
class StageRow:
    """One stage of the run. `peak_bytes`: largest resident memory, None where it was not measured."""

    label: str
    stage: str
    artifact_id: str | None
    state: State
    seconds: float
    peak_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class StoppedStep:
    """A step that refused or failed to make or to measure a form of the model; `message`: why."""

    label: str
    form: Form
    message: str
