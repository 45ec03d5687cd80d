"""What came of requests, gathered for each artifact and written to the registry every few seconds."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from registry import Registry
from registry.errors import RegistryError
from registry.tenancy.outcomes import Outcome
from serving.gateway.rollout.decision import Arm

log = logging.getLogger("tuneline.gateway")

EVERY_SECONDS = 2.0
SAMPLED = 256
"""Durations of one row; of more, a random choice."""


@dataclass
class _Row:
    requests: int = 0
    failed: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    compared: int = 0
    agreed: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)
    checked: int = 0
    not_json: int = 0
    seen: int = 0


@dataclass(frozen=True)
class RequestOutcome:
    """One request's end; `agreed` is None unless it was compared with another answer to the same request,
    `is_json` unless it was looked at.
    """

    channel: str
    generation: int
    artifact_id: str
    arm: Arm
    failed: bool
    reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token: float | None
    agreed: bool | None = None
    is_json: bool | None = None


class OutcomeRecorder:
    """Of one gateway. Holds counts and durations, never a prompt or an answer."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rows: dict[tuple[str, int, str, Arm], _Row] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()

    def add(self, outcome: RequestOutcome) -> None:
        """Count one request."""
        key = (outcome.channel, outcome.generation, outcome.artifact_id, outcome.arm)
        row = self._rows.setdefault(key, _Row())
        row.requests += 1
        row.failed += outcome.failed
        row.truncated += outcome.reason == "length"
        row.prompt_tokens += outcome.prompt_tokens
        row.completion_tokens += outcome.completion_tokens
        if outcome.agreed is not None:
            row.compared += 1
            row.agreed += outcome.agreed
        if outcome.is_json is not None:
            row.checked += 1
            row.not_json += not outcome.is_json
        if not outcome.failed:
            self._sample(row, outcome)

    def _sample(self, row: _Row, outcome: RequestOutcome) -> None:
        """Vitter's reservoir: every request has the same chance to be among the kept ones."""
        row.seen += 1
        index = len(row.latencies_ms) if row.seen <= SAMPLED else random.randrange(row.seen)
        if index < SAMPLED:
            pair = (outcome.seconds * 1000, (outcome.first_token or outcome.seconds) * 1000)
            for values, value in zip((row.latencies_ms, row.first_token_ms), pair, strict=True):
                values[index : index + 1] = [round(value, 3)]

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        rows, self._rows = self._rows, {}
        if not rows:
            return
        # A judge closes a block at a canary's row. By then it has to have read what the live one answered
        # in the same seconds, or an outage of both would at first be the canary's alone.
        rows = dict(sorted(rows.items(), key=lambda row: row[0][3] == "canary"))
        minute = datetime.now(UTC).replace(second=0, microsecond=0)
        names = [field.name for field in fields(_Row) if field.name != "seen"]
        outcomes = [
            Outcome(
                **dict(zip(("channel", "generation", "artifact_id", "arm"), key, strict=True)),
                minute=minute,
                **{name: getattr(row, name) for name in names},
            )
            for key, row in rows.items()
        ]
        try:
            await asyncio.to_thread(self._registry.outcomes.add, outcomes)
        except RegistryError as error:
            count = sum(row.requests for row in rows.values())
            log.error("outcomes of %d requests were not written: %s", count, error)
