"""What gateways counted of a canary and of the live artifact, read on and on, as a sequential test."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from flows.gates.policy import CanaryPolicy, FiniteRecord, Verdict
from registry import Registry
from registry.tenancy.outcomes import Outcome
from registry.tenancy.rollouts import Rollout
from stages.statistics.canary import Guardrail, Shown, confidence_sequence, shown
from stages.statistics.sequential import Block, block

Ending = Literal["harm", "safe", "requests", "hours"]
VERDICTS: dict[Ending, Verdict] = {
    "safe": "pass", "harm": "fail", "requests": "insufficient", "hours": "insufficient",
}  # fmt: skip
SMALLEST_BLOCK = 10
GROWTH = 0.05
"""A block is closed at so many answers of the canary, or at this share of all before it: the number of blocks
grows with the logarithm of the traffic. Nothing but counts closes one."""
BEFORE = timedelta(hours=1)
"""Of the live artifact's answers before the canary began; its rates are learned from these."""


class GuardrailEvidence(FiniteRecord):
    """One guardrail's counts. `low` and `high` bound the difference of the shares, canary minus live."""

    guardrail: str
    margin: float
    live: int
    live_bad: int
    canary: int
    canary_bad: int
    log10_e_harm: float = Field(description="evidence that it is worse at all")
    log10_e_safe: float = Field(description="evidence that it is worse by less than the margin")
    low: float
    high: float

    @property
    def sentence(self) -> str:
        of = (f"{self.canary_bad} of {self.canary:,}", f"{self.live_bad} of {self.live:,}")
        between = f"between {100 * self.low:+.1f} and {100 * self.high:+.1f} points"
        return f"{self.guardrail}: {of[0]} of the candidate's, {of[1]} of the live artifact's; {between}"


class CanaryEvidence(FiniteRecord):
    """All that is known of a canary at one moment."""

    rollout: int
    began: datetime
    requests: int = Field(description="answers of the candidate that were judged")
    hours: float
    shown: Shown
    alpha: float
    harm_alpha: float
    guardrails: tuple[GuardrailEvidence, ...]


@dataclass
class _Count:
    """Of one guardrail, since the last block."""

    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def add(self, canary: bool, items: int, bad: int) -> None:
        at = 2 if canary else 0
        self.counts[at] += items
        self.counts[at + 1] += bad


class CanaryTest:
    """The test of one rollout. It depends on the rows alone, so it can be begun anew at any time."""

    def __init__(self, policy: CanaryPolicy, rollout: Rollout, live: str, since: datetime) -> None:
        self.policy, self.rollout, self._live, self._since = policy, rollout, live, since
        self._guardrails = {name: Guardrail(margin) for name, margin in policy.margins.items()}
        self._blocks: dict[str, list[Block]] = {name: [] for name in self._guardrails}
        self._open = {name: _Count() for name in self._guardrails}
        self._last = 0
        self._judged = self._waiting = 0

    def read(self, registry: Registry) -> Shown:
        """Take in what was counted since; returns what is shown now.

        Harm once shown stays shown: whoever looks only later stops the canary for it too.
        """
        if self.shown == "harm":
            return "harm"
        since = None if self._last else self.rollout.at - BEFORE
        of = (self.rollout.channel, self.rollout.generation)
        for number, row in registry.outcomes.added(*of, self._last, since):
            self._last = number
            self._add(row)
            if self._waiting >= max(SMALLEST_BLOCK, GROWTH * self._judged):
                self._close()
                if self.shown == "harm":
                    break
        return self.shown

    @property
    def shown(self) -> Shown:
        return shown(list(self._guardrails.values()), self.policy.harm_alpha, self.policy.alpha)

    def ending(self, now: datetime) -> Ending | None:
        """Why it is over, or None while it is not."""
        if (verdict := self.shown) != "neither":
            return verdict
        if self._judged >= self.policy.max_requests:
            return "requests"
        return "hours" if self._hours(now) >= self.policy.max_hours else None

    def evidence(self, now: datetime) -> CanaryEvidence:
        """What is known now; finding the bounds takes a moment."""
        return CanaryEvidence(
            rollout=self.rollout.sequence,
            began=self.rollout.at,
            requests=self._judged,
            hours=round(self._hours(now), 2),  # two judges of the same counts record one decision
            shown=self.shown,
            alpha=self.policy.alpha,
            harm_alpha=self.policy.harm_alpha,
            guardrails=tuple(self._of(name) for name in self._guardrails),
        )

    def _hours(self, now: datetime) -> float:
        return (now - self.rollout.at) / timedelta(hours=1)

    def _add(self, row: Outcome) -> None:
        canary = row.arm == "canary" and row.artifact_id == self.rollout.candidate
        live = row.arm == "live" and row.artifact_id == self._live
        # an earlier rollout's answers are not this one's
        if not (canary or live) or (canary and row.minute < self._since):
            return
        if canary and not self._judged + self._waiting:
            self._close()  # what is live is known before the first answer of the canary counts
        for name, count in self._open.items():
            # of answers of before, live ones had longer to be disliked than the canary's
            if name != "disliked" or row.minute >= self._since:
                count.add(canary, *_counted(name, row, self.policy))
        self._waiting += row.requests if canary else 0

    def _close(self) -> None:
        for name, count in self._open.items():
            counts = block(*count.counts)
            self._guardrails[name].add(counts)
            self._blocks[name].append(counts)
            self._open[name] = _Count()
        self._judged, self._waiting = self._judged + self._waiting, 0

    def _of(self, name: str) -> GuardrailEvidence:
        guardrail, blocks = self._guardrails[name], self._blocks[name]
        live, live_bad, canary, canary_bad = (
            [int(sum(float(column[0]) for column in columns)) for columns in zip(*blocks, strict=True)]
            if blocks
            else [0, 0, 0, 0]
        )
        bounds = confidence_sequence(blocks, self.policy.alpha)
        return GuardrailEvidence(
            guardrail=name,
            margin=guardrail.margin,
            live=live,
            live_bad=live_bad,
            canary=canary,
            canary_bad=canary_bad,
            log10_e_harm=_log10(guardrail.harm.log_e[0]),
            log10_e_safe=_log10(guardrail.safe.log_e[0]),
            low=round(bounds.low, 6),
            high=round(bounds.high, 6),
        )


def _counted(guardrail: str, row: Outcome, policy: CanaryPolicy) -> tuple[int, int]:
    """Answers that count for the guardrail, and the bad ones among them."""
    if guardrail == "errors":
        return row.requests, row.failed
    if guardrail == "cut off":
        return row.requests, row.truncated
    if guardrail == "not JSON":
        return row.checked, row.not_json
    if guardrail == "disliked":
        return row.rated, row.disliked
    assert policy.slow is not None
    return len(row.latencies_ms), sum(ms > policy.slow.over_ms for ms in row.latencies_ms)


def _log10(natural: float) -> float:
    return round(float(natural) / math.log(10), 4)
