"""How many requests a second an engine answers within a promise, how many tenants it can hold, and what to
change where that is not enough. Changes are tried with the same formulas, from what costs least."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from flows.formatting import size
from flows.planning.serving.memory import GPU_SHARE, adapter_bytes, engine_bytes
from flows.planning.serving.simulation import Load, Outcome, at_most, at_rate
from flows.planning.serving.steps import Gpu, Steps
from serving.gateway.config import EngineSection
from stages.model_shape import ModelShape

LOOKS, MOST_LOOKS = 8, 16
"""Halvings of the span in which the rate is looked for, more until one is found that keeps the promise."""
MOST_TENANTS = 1024
"""Adapters that an engine may hold at once, as `serve.yaml` has it."""
REQUESTS = 600
"""Simulated for a rate: six of them may take longer than the p99."""


@dataclass(frozen=True)
class Served:
    """What is to be served: bytes of its weights, and its shape."""

    label: str
    shape: ModelShape
    weights: int


@dataclass(frozen=True)
class Promise:
    """Seconds within which 99 of 100 requests get their whole answer, and their first token."""

    whole: float
    first: float | None = None

    def kept(self, outcome: Outcome) -> bool:
        """Whether an outcome keeps it."""
        within = outcome.at(outcome.first, 0.99) <= (self.first or math.inf)
        return within and outcome.at(outcome.whole, 0.99) <= self.whole


@dataclass(frozen=True)
class Asked:
    """`rank`: of each tenant's adapter, 0 where all ask the model itself; `rate`: requests a second that
    have to be answered; `each`: those of one tenant."""

    engine: Literal["llama.cpp", "vllm"]
    load: Load
    promise: Promise
    context_length: int
    rank: int = 16
    rate: float | None = None
    each: float | None = None

    @property
    def adapters(self) -> int:
        return self.load.tenants if self.rank else 0

    @property
    def simulated(self) -> Load:
        """The load with one queue where all ask the same model."""
        return self.load if self.rank else replace(self.load, tenants=1)


@dataclass(frozen=True)
class ServingPlan:
    """`held`: bytes that the engine may take at most; `room`: adapters that fit in them; `most`: with all
    slots always in use; `promised`: at the highest rate that keeps the promise, None where none does;
    `tenants`: how many keep it at the rate of each, None where that was not asked."""

    memory_bytes: int
    memory_note: str
    held: int
    room: int
    most: Outcome
    promised: Outcome | None
    tenants: int | None
    shortfalls: tuple[str, ...]


def plan(served: Served, asked: Asked, steps: Steps, free: int, gpu: Gpu | None) -> ServingPlan:
    """`free`: bytes of main memory that the engine may take; with a `gpu`, of its memory instead."""
    held = free if gpu is None else int(GPU_SHARE * gpu.memory)
    needed, note = _memory(served, asked, gpu)
    adapter = adapter_bytes(served.shape, asked.rank)
    room = MOST_TENANTS
    if adapter:
        room = max(0, min(MOST_TENANTS, (held - needed) // adapter + asked.adapters))
    most = at_most(steps, asked.simulated)
    promised = highest(steps, asked, most.rate)
    tenants = None if asked.each is None else _tenants(steps, asked, room, asked.each)

    def fits(other: Asked) -> bool:
        return _memory(served, other, gpu)[0] <= held

    missing = []
    if needed > held:
        remedy = _smaller(asked, fits, lambda other: _memory(served, other, gpu)[0])
        missing.append(f"the engine needs about {size(needed)} of memory, {size(held)} are free: {remedy}")
    if promised is None:
        missing.append(_too_slow(steps, asked))
    elif asked.rate is not None and promised.rate < asked.rate:
        missing.append(_too_few(steps, asked, promised.rate, asked.rate, fits))
    return ServingPlan(needed, note, held, room, most, promised, tenants, tuple(missing))


def highest(steps: Steps, asked: Asked, most: float) -> Outcome | None:
    """The outcome at the highest rate that keeps the promise; None where one request alone breaks it."""
    low, high = 0.0, most
    best: Outcome | None = None
    if not asked.promise.kept(_alone(steps, asked)):
        return None
    for look in range(MOST_LOOKS):
        if look >= LOOKS and best is not None:
            break
        rate = (low + high) / 2
        outcome = at_rate(steps, asked.simulated, rate, REQUESTS)
        if asked.promise.kept(outcome):
            low, best = rate, replace(outcome, rate=rate)
        else:
            high = rate
    return best


def _alone(steps: Steps, asked: Asked) -> Outcome:
    """Of a request that has the engine to itself."""
    return at_most(steps, replace(asked.load, slots=1, tenants=1), requests=4)


def _tenants(steps: Steps, asked: Asked, room: int, each: float) -> int:
    """The most tenants that keep the promise while each asks at its rate."""
    low, high = 0, room + 1
    while high - low > 1:
        count = (low + high) // 2
        load = replace(asked.load, tenants=count if asked.rank else 1)
        kept = asked.promise.kept(at_rate(steps, load, count * each, REQUESTS))
        low, high = (count, high) if kept else (low, count)
    return low


def _memory(served: Served, asked: Asked, gpu: Gpu | None) -> tuple[int, str]:
    section = EngineSection(
        engine=asked.engine,
        model=served.label,
        adapters=max(1, min(MOST_TENANTS, asked.adapters)),
        max_rank=max(1, asked.rank),
        context_length=asked.context_length,
        parallel=asked.load.slots,
    )
    adapter = adapter_bytes(served.shape, asked.rank)
    return engine_bytes(section, served.shape, served.weights, asked.adapters, adapter, gpu is not None)


def _smaller(asked: Asked, fits: Callable[[Asked], bool], needed: Callable[[Asked], int]) -> str:
    """The first change with which the engine fits: what no request notices, then what makes them wait, then
    adapters that are loaded when they are asked for."""
    least = asked.load.prompt + asked.load.answer
    changes: list[tuple[str, Asked]] = []
    if asked.context_length > least:
        asked = replace(asked, context_length=least)
        changes.append((f"--context-length {least}", asked))
    before = changes[-1][0] + " " if changes else ""
    for slots in _halves(asked.load.slots):
        changes.append((f"{before}--slots {slots}", replace(asked, load=replace(asked.load, slots=slots))))
    fewest = changes[-1][1] if changes else asked
    before = changes[-1][0] + " " if changes else ""
    for tenants in _halves(asked.adapters):
        changes.append(
            (f"{before}--tenants {tenants}", replace(fewest, load=replace(fewest.load, tenants=tenants)))
        )
    for said, change in changes:
        if fits(change):
            return f"with {said} it needs {size(needed(change))}"
    return "no smaller setting is enough; choose a smaller file, or a larger machine"


def _too_slow(steps: Steps, asked: Asked) -> str:
    """One request alone breaks the promise: what would keep it."""
    outcome = _alone(steps, asked)
    first, whole = outcome.at(outcome.first, 0.99), outcome.at(outcome.whole, 0.99)
    said = f"a request that has the engine to itself takes {whole:.3g} s, its first token {first:.3g} s"
    for name in ("answer", "prompt"):
        for tokens in _halves(getattr(asked.load, name)):
            shorter = replace(asked, load=replace(asked.load, **{name: tokens}))
            if asked.promise.kept(_alone(steps, shorter)):
                return f"{said}: with --{name} {tokens} it keeps the promise"
    return f"{said}: choose a smaller file, a faster machine, or a longer time"


def _too_few(
    steps: Steps, asked: Asked, answered: float, wanted: float, fits: Callable[[Asked], bool]
) -> str:
    """The rate is too high: more or fewer slots, else more engines."""
    said = f"{answered:.3g} of {wanted:.3g} requests/s are answered in time"
    others = [asked.load.slots * 2, asked.load.slots * 4, *_halves(asked.load.slots)]
    for slots in others:
        other = replace(asked, load=replace(asked.load, slots=slots))
        if fits(other) and asked.promise.kept(at_rate(steps, other.simulated, wanted, REQUESTS)):
            return f"{said}: with --slots {slots} all are"
    return f"{said}: {math.ceil(wanted / answered)} such machines would answer them"


def _halves(value: int) -> Iterator[int]:
    while value // 2 >= 1:
        value //= 2
        yield value
