"""What an engine answers under a load: its scheduler's turns, with the time that each of its steps takes.

As `serving.llama_cpp.scheduler` does it: a few steps for all answers of one adapter, then the next one's; new
answers begin between turns. vLLM computes all together, a step at a time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flows.planning.serving.steps import Steps

TURN_STEPS, BATCH_TOKENS = 4, 512
"""As `serving.llama_cpp` has them, whose modules would load llama.cpp."""


@dataclass(frozen=True)
class Load:
    """Requests of `prompt` and `answer` tokens each, of `tenants` with an adapter each, `slots` at once."""

    tenants: int
    prompt: int
    answer: int
    slots: int


@dataclass(frozen=True)
class Outcome:
    """Answers a second, and seconds from a request to its first token and to its last, sorted."""

    rate: float
    first: Sequence[float]
    whole: Sequence[float]

    @staticmethod
    def at(seconds: Sequence[float], share: float) -> float:
        """The time within which that share of the answers came."""
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


@dataclass(eq=False)
class _Request:
    tenant: int
    came: float
    left: int
    """Tokens of its prompt that are not read yet."""
    context: int = 0
    written: int = 0
    slot: int = -1
    first: float = 0.0


class Engine:
    """The simulated engine; `clock` in seconds."""

    def __init__(self, steps: Steps, load: Load) -> None:
        self._steps, self._load = steps, load
        self.clock = 0.0
        self.waiting: deque[_Request] = deque()
        self._free = list(range(load.slots))
        self._turns: deque[int] = deque()
        self._active: dict[int, list[_Request]] = {}
        self.done: list[tuple[float, _Request]] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self._active)

    def turn(self) -> None:
        """Seat who waits, then a few steps for those whose turn it is."""
        while self.waiting and self._free:
            request = self.waiting.popleft()
            request.slot = self._free.pop(0)
            group = 0 if self._steps.mixes else request.tenant
            if group not in self._active:
                self._active[group] = []
                self._turns.append(group)
            self._active[group].append(request)
        group = self._turns.popleft()
        active, left = self._active[group], 1 if self._steps.mixes else TURN_STEPS
        while left and active:
            left -= self._step(active, left)
            for request in [request for request in active if request.written >= self._load.answer]:
                active.remove(request)
                self._free.append(request.slot)
                self.done.append((self.clock, request))
        if active:
            self._turns.append(group)
        else:
            del self._active[group]

    def _step(self, active: list[_Request], most: int) -> int:
        """One step, or several alike at once; returns how many."""
        if any(request.left for request in active):
            self._read(active)
            return 1
        count = min(most, *(self._load.answer - request.written for request in active))
        per_step = 0.0
        for run in self._runs(sorted(request.slot for request in active)):
            context = sum(request.context for request in active if request.slot in run)
            per_step += self._steps.seconds(len(run), 1, context + len(run) * count // 2)
        self.clock += count * per_step
        for request in active:
            request.context += count
            request.written += count
        return count

    def _read(self, active: list[_Request]) -> None:
        """Next tokens first, then what fits of the prompts: passes of as many tokens of each sequence."""
        room, chunks = BATCH_TOKENS, dict[int, int]()
        by_slot = {request.slot: request for request in active}
        for request in sorted(active, key=lambda request: request.left or 1):
            chunks[request.slot] = min(room, request.left or 1)
            room -= chunks[request.slot]
        contexts = {slot: by_slot[slot].context for slot in chunks}
        left = {slot: count for slot, count in chunks.items() if count}
        while left:
            run = next(iter(self._runs(sorted(left))))
            each = max(1, min(min(left[slot] for slot in run), BATCH_TOKENS // len(run)))
            context = sum(contexts[slot] for slot in run) + len(run) * each // 2
            self.clock += self._steps.seconds(len(run), each, context)
            for slot in run:
                contexts[slot] += each
                left[slot] -= each
            left = {slot: count for slot, count in left.items() if count}
        for slot, count in chunks.items():
            request = by_slot[slot]
            answering = request.left <= count
            request.left = max(0, request.left - count)
            request.context += count
            if count and answering:
                request.written += 1
                request.first = request.first or self.clock

    def _runs(self, slots: Sequence[int]) -> Iterable[Sequence[int]]:
        """Sequences that are computed together: llama.cpp wants their numbers to follow each other."""
        if self._steps.mixes:
            return [slots]
        runs: list[list[int]] = []
        for slot in slots:
            if runs and runs[-1][-1] + 1 == slot:
                runs[-1].append(slot)
            else:
                runs.append([slot])
        return runs


def at_most(steps: Steps, load: Load, requests: int = 200) -> Outcome:
    """Where as many clients as there are slots ask again as soon as they are answered."""
    engine, draw = Engine(steps, load), random.Random(0)
    asked = 0
    while len(engine.done) < requests:
        while asked - len(engine.done) < load.slots:
            engine.waiting.append(_Request(draw.randrange(load.tenants), engine.clock, load.prompt))
            asked += 1
        engine.turn()
    return _outcome(engine, min(load.slots, requests // 4))


def at_rate(steps: Steps, load: Load, rate: float, requests: int = 1000) -> Outcome:
    """Where so many requests a second come at random times, of tenants at random."""
    engine, draw = Engine(steps, load), random.Random(0)
    due, asked = draw.expovariate(rate), 0
    while len(engine.done) < requests:
        while asked < requests and due <= engine.clock:
            engine.waiting.append(_Request(draw.randrange(load.tenants), due, load.prompt))
            asked, due = asked + 1, due + draw.expovariate(rate)
        if engine.busy:
            engine.turn()
        else:
            engine.clock = due
    return _outcome(engine, 0)


def _outcome(engine: Engine, warm: int) -> Outcome:
    """Without the first answers, which began together."""
    began = engine.done[warm - 1][0] if warm else 0.0
    counted = engine.done[warm:]
    first = sorted(request.first - request.came for _, request in counted)
    whole = sorted(ended - request.came for ended, request in counted)
    return Outcome(len(counted) / (counted[-1][0] - began), first, whole)
