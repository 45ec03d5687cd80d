"""What became of one step of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ran", "reused", "failed", "interrupted", "skipped"]


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
