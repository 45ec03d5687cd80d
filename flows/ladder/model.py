"""The ladder as values: what is known of a rung, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from flows.gates.policy import FiniteRecord
from flows.run.stage_row import Form


@dataclass(frozen=True)
class RungEvidence:
    """What is known of one rung. `metrics`: of its evaluation; `answers`: item → (answer, score) as logged.

    `stopped`: the message of the stage that refused or failed on this rung; it has no metrics then.
    """

    label: str
    kind: Form
    artifact_id: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    quant: str = "none"
    """`gptq-4`, a GGUF type such as `Q4_K_M` (of the base, for an adapter apart), or `none`."""
    calibrated_on: str | None = None
    trained_on: str | None = None
    by_preference: bool = False
    """Whether it was trained on which of two answers is preferred, not on what is likely."""
    probe: Mapping[str, Any] | None = None
    stopped: str | None = None
    lose_less: str = ""
    """What to do where a sound file of this type loses too much."""


class Figure(FiniteRecord):
    """A value with its 95 % interval over `n` chats or items."""

    value: float
    low: float
    high: float
    n: int


class FailedCheck(FiniteRecord):
    """A check that failed on a rung; `cause`: only what was looked at; `next`: what to do or to look at."""

    check: str
    words: str
    cause: str
    next: str = ""


class Rung(FiniteRecord):
    """One form of the model against the one before. `figures`: metric → value, against `parent`.

    `to_base`: a file against the quantized base; `fold`: a merge, or an adapter apart, against the same sum
    unmerged, in the base's own weights; `to_start`: an adapter trained on preferences against the one that it
    began with.
    """

    label: str
    kind: Form
    artifact_id: str | None
    parent: str | None
    figures: dict[str, Figure] = Field(default_factory=dict)
    to_base: dict[str, Figure] = Field(default_factory=dict)
    fold: dict[str, Figure] = Field(default_factory=dict)
    to_start: dict[str, Figure] = Field(default_factory=dict)
    score: Figure | None = None
    metric: str | None = None
    gained: int | None = None
    lost: int | None = None
    changed: int | None = None
    compared: int | None = None
    findings: tuple[FailedCheck, ...] = ()


class Ladder(FiniteRecord):
    """`breaks_at`: the first rung with a finding; `cause`: what was seen there; `next`: what to do."""

    rungs: tuple[Rung, ...]
    breaks_at: str | None = None
    cause: str | None = None
    next: str = ""
    merge_base: dict[str, Any] | None = None

    @property
    def sentence(self) -> str:
        """The ladder in one sentence, and what to do next in another."""
        if self.breaks_at is not None:
            follows = f". Next: {self.next}" if self.next else ""
            return f"Quality breaks at {self.breaks_at}: {self.cause}{follows}"
        compared = sum(bool(rung.figures) for rung in self.rungs)
        return f"Each of the {compared} compared forms is what it was made from."
