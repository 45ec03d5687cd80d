"""The base and the adapters that are loaded beside it: by which name, since when, and who waits for which.

A name stands for the same bytes for as long as the engine lives: a load under a name that once stood for
other bytes is refused. Each load has a serial number of its own that is never used again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.engine.capabilities import texts_at_once
from serving.errors import AdapterRefused, NotServable, Overloaded, UnknownModel
from serving.llama_cpp.bindings import Adapter
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.sequences import Answer, CacheKey, Failed, TokenCounts
from serving.llama_cpp.states import Texts

PROBE = "Who are you, and what can you do for me today?"
GAVE_WAY = Failed("the queue is full, and others wait less long", "overloaded")
LEAST_EFFECT = 1e-5
"""Change of the probe's logits, relative to their norm; rounding alone changes nothing in the same batch."""


@dataclass(eq=False)
class LoadedAdapter:
    """The base (`handle` None) or a loaded adapter, with the answers that want it."""

    name: str
    digest: str
    handle: Adapter | None
    serial: int
    effect: float
    """‖logits with it − logits of the base‖ / ‖logits of the base‖ after the probe's last token."""
    waiting: deque[Answer] = field(default_factory=deque)
    active: list[Answer] = field(default_factory=list)
    leaving: bool = False
    gone: Future[None] = field(default_factory=Future)


class LoadedAdapters:
    """All of them, in the order of their next turn. The caller holds its lock for whatever changes them."""

    def __init__(self, model: LlamaModel, base_name: str, limit: int, parallel: int) -> None:
        """Room for `limit` adapters, and for `parallel` answers at once, whose texts have a share of it."""
        self._model = model
        self._limit = limit
        self._parallel, self._texts_at_once = parallel, texts_at_once(parallel)
        self._serials = itertools.count(1)
        self._base = LoadedAdapter(base_name, "", None, 0, 0.0)
        self._all = {base_name: self._base}
        self.texts = LoadedAdapter("", "", None, -1, 0.0)
        """The line of texts whose mean state is asked for, the base's for all: with turns of its own."""
        self._in_use: LoadedAdapter | None = self._base
        self._bytes: dict[str, str] = {}
        self._base_logits: NDArray[np.float32] | None = None
        self._decoding: deque[LoadedAdapter] = deque([self._base, self.texts])
        self._starting: deque[LoadedAdapter] = deque([self._base, self.texts])
        """In the order of their next turn to decode, and to begin an answer."""

    def __iter__(self) -> Iterator[LoadedAdapter]:
        return iter(list(self._all.values()))

    def lines(self) -> list[LoadedAdapter]:
        """All of them, and the line of texts."""
        return [*self, self.texts]

    def serving(self, name: str) -> LoadedAdapter:
        """Raises `UnknownModel`; nothing else ever answers in its place."""
        model = self._all.get(name)
        if model is None or model.leaving:
            raise UnknownModel(f"the model {name!r} is not served here")
        return model

    def queue(self, answers: tuple[Answer, ...], limit: int, counts: TokenCounts) -> None:
        """Queue the answers to one request, all or none, where so many may wait; others may give way to them.

        Texts and answers have places of their own. Raises `UnknownModel` or `Overloaded`.
        """
        line, lines, places = self.serving(answers[0].model), list(self), self._parallel
        if isinstance(answers[0], Texts):
            line, lines, places = self.texts, [self.texts], self._texts_at_once
        waiting = {other: len(other.waiting) for other in lines}
        total, then = sum(waiting.values()), waiting[line] + len(answers)
        room = limit + places - sum(len(other.active) for other in lines)
        for _ in range(total + len(answers) - room):
            longest = max(waiting, key=lambda other: waiting[other])
            if waiting[longest] <= then:
                counts.rejected += 1
                raise Overloaded(
                    f"{total} answers are waiting, {len(answers)} more are asked for, and this engine has "
                    f"room for {room}"
                )
            waiting[longest] -= 1
        for other, left in waiting.items():
            while len(other.waiting) > left:
                counts.rejected += 1
                other.waiting.pop().tell(GAVE_WAY)
        line.waiting.extend(answers)

    def drop(self, answer: Answer) -> bool:
        """Let it wait no longer; whether it did."""
        for line in self.lines():
            if answer in line.waiting:
                line.waiting.remove(answer)
                return True
        return False

    def load(self, name: str, digest: str, file: Path, sequence: int) -> LoadedAdapter:
        """Load the GGUF adapter `file`, and prove in `sequence`, which is free, that it changes what is said.

        Returns the one that is loaded already, if it is. Raises `Overloaded` when there is no room,
        `NotServable` for a file that cannot be used, `AdapterRefused` for one without effect, for a name that
        stood for other bytes, or one that is being unloaded.
        """
        holder = self._all.get(name)
        if holder is not None and not holder.leaving and holder.digest == digest:
            return holder
        if holder is not None:
            why = "is being unloaded" if holder.leaving else f"serves {holder.digest[:24]}…"
            raise AdapterRefused(f"the name {name} {why}; an adapter's name stands for one artifact only")
        if len(self._all) > self._limit:
            raise Overloaded(f"{self._limit} adapters are loaded, the most that this engine was started for")
        sha256 = self._require_same_bytes(name, file)
        handle = self._model.load_adapter(file)
        try:
            effect = self._effect(handle, sequence)
            if not effect > LEAST_EFFECT:  # also when it is NaN
                raise AdapterRefused(
                    f"{file}: the adapter changes the base's logits by {effect:.2g} of their norm, expected "
                    f"more than {LEAST_EFFECT:g}: it has no effect here, so the base would answer in its name"
                )
        except BaseException:
            self._model.free_adapter(handle)
            raise
        adapter = LoadedAdapter(name, digest, handle, next(self._serials), effect)
        self._bytes[name] = sha256
        self._all[name] = adapter
        self._decoding.append(adapter)
        self._starting.append(adapter)
        return adapter

    def _require_same_bytes(self, name: str, file: Path) -> str:
        try:
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise NotServable(f"{file}: {error.strerror}; expected a GGUF adapter") from None
        if self._bytes.get(name, sha256) != sha256:
            raise AdapterRefused(
                f"{file} is not the file that {name} stood for before (sha256 {sha256[:12]}…, expected "
                f"{self._bytes[name][:12]}…); an adapter's name stands for one artifact only"
            )
        return sha256

    def _effect(self, handle: Adapter, sequence: int) -> float:
        if self._base_logits is None:
            self._base_logits = self._probe(None, sequence)
        change = self._probe(handle, sequence) - self._base_logits
        return float(np.linalg.norm(change) / np.linalg.norm(self._base_logits))

    def _probe(self, handle: Adapter | None, sequence: int) -> NDArray[np.float32]:
        tokens = self._model.tokenize(PROBE, add_special=True)
        self._in_use = None
        self._model.use(handle)
        self._model.forget(sequence)
        last = len(tokens) - 1
        try:
            self._model.decode([(token, i, sequence, i == last) for i, token in enumerate(tokens)])
            return self._model.logits(last)
        finally:
            self._model.forget(sequence)
            self._model.use(None)

    def leave(self, name: str) -> LoadedAdapter:
        """Take no more requests for it. Raises `UnknownModel`; for the base `AdapterRefused`."""
        if name == self._base.name:
            raise AdapterRefused(f"{name} is the base, which stays as long as the engine runs")
        adapter = self._all.get(name)
        if adapter is None:
            raise UnknownModel(f"the adapter {name!r} is not loaded")
        adapter.leaving = True
        return adapter

    def leaving(self) -> list[LoadedAdapter]:
        """Those that may go now: told to, and with nothing left to do."""
        return [adapter for adapter in self if adapter.leaving and not adapter.waiting and not adapter.active]

    def free(self, adapter: LoadedAdapter) -> None:
        """Give its memory back and tell who waits for that."""
        if self._in_use is adapter:
            self._model.use(None)
            self._in_use = None
        del self._all[adapter.name]
        self._decoding.remove(adapter)
        self._starting.remove(adapter)
        assert adapter.handle is not None
        self._model.free_adapter(adapter.handle)
        adapter.gone.set_result(None)

    def use(self, adapter: LoadedAdapter) -> bool:
        """Decode with it from now on; returns whether that was a switch."""
        if self._in_use is adapter:
            return False
        self._model.use(adapter.handle)
        self._in_use = adapter
        return True

    def busy(self) -> bool:
        """Whether there is anything to do."""
        return any(line.waiting or line.active or line.leaving for line in self.lines())

    def queued(self) -> dict[str, tuple[int, int]]:
        """Served name → answers waiting and answers under way; texts count as the base's."""
        counts = {line.name: (len(line.waiting), len(line.active)) for line in self}
        waiting, active = counts[self._base.name]
        counts[self._base.name] = waiting + len(self.texts.waiting), active + len(self.texts.active)
        return counts

    def next_active(self) -> LoadedAdapter | None:
        """Whose turn it is to decode."""
        return _next(self._decoding, lambda adapter: bool(adapter.active))

    def next_waiting(self) -> tuple[LoadedAdapter, Answer] | None:
        """Whose turn it is to begin, and with which answer."""
        line = _next(self._starting, lambda line: bool(line.waiting) and self._may_begin(line))
        return None if line is None else (line, line.waiting.popleft())

    def _may_begin(self, line: LoadedAdapter) -> bool:
        return line is not self.texts or len(line.active) < self._texts_at_once

    def answering(self) -> bool:
        """Whether answers are under way, of the base or an adapter."""
        return any(adapter.active for adapter in self)

    def anybody_waits(self) -> bool:
        """For a place."""
        return any(line.waiting for line in self.lines())


def cache_key(adapter: LoadedAdapter, answer: Answer) -> CacheKey | None:
    """What must be equal for one answer to use keys and values that another left; None: nothing is left."""
    return None if answer.salt is None else (adapter.serial, answer.salt)


def _next(order: deque[LoadedAdapter], wanted: Callable[[LoadedAdapter], bool]) -> LoadedAdapter | None:
    """The first that is wanted, which goes to the end."""
    for adapter in order:
        if wanted(adapter):
            order.remove(adapter)
            order.append(adapter)
            return adapter
    return None
