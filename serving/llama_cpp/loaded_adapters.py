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

from serving.errors import AdapterRefused, NotServable, Overloaded, UnknownModel
from serving.llama_cpp.bindings import Adapter
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.sequences import Answer

PROBE = "Who are you, and what can you do for me today?"
LEAST_EFFECT = 1e-5
"""Change of the probe's logits, relative to their norm; rounding alone changes nothing in the same batch."""


@dataclass(eq=False)
class LoadedAdapter:
    """The base (`adapter` None) or a loaded adapter, with the answers that want it."""

    name: str
    digest: str
    adapter: Adapter | None
    serial: int
    effect: float
    """‖logits with it − logits of the base‖ / ‖logits of the base‖ after the probe's last token."""
    waiting: deque[Answer] = field(default_factory=deque)
    active: list[Answer] = field(default_factory=list)
    leaving: bool = False
    gone: Future[None] = field(default_factory=Future)


class LoadedAdapters:
    """All of them, in the order of their next turn. The caller holds its lock for whatever changes them."""

    def __init__(self, model: LlamaModel, base_name: str, limit: int) -> None:
        self._model = model
        self._limit = limit
        self._serials = itertools.count(1)
        self._base = LoadedAdapter(base_name, "", None, 0, 0.0)
        self._all = {base_name: self._base}
        self._in_use: LoadedAdapter | None = self._base
        self._bytes: dict[str, str] = {}
        self._base_logits: NDArray[np.float32] | None = None
        self._turns: deque[LoadedAdapter] = deque([self._base])
        self._doors: deque[LoadedAdapter] = deque([self._base])

    def __iter__(self) -> Iterator[LoadedAdapter]:
        return iter(list(self._all.values()))

    def serving(self, name: str) -> LoadedAdapter:
        """Raises `UnknownModel`; nothing else ever answers in its place."""
        found = self._all.get(name)
        if found is None or found.leaving:
            raise UnknownModel(f"the model {name!r} is not served here")
        return found

    def load(self, name: str, digest: str, file: Path, sequence: int) -> LoadedAdapter:
        """Load the GGUF adapter `file`, and prove in `sequence`, which is free, that it changes what is said.

        Returns the one that is loaded already, if it is. Raises `Overloaded` when there is no room,
        `NotServable` for a file that cannot be used, `AdapterRefused` for one without effect, for a name that
        stood for other bytes, or one that is being unloaded.
        """
        found = self._all.get(name)
        if found is not None and not found.leaving and found.digest == digest:
            return found
        if found is not None:
            why = "is being unloaded" if found.leaving else f"serves {found.digest[:24]}…"
            raise AdapterRefused(f"the name {name} {why}; an adapter's name stands for one artifact only")
        if len(self._all) > self._limit:
            raise Overloaded(f"{self._limit} adapters are loaded, as many as this engine was started for")
        found_bytes = self._require_same_bytes(name, file)
        adapter = self._model.load_adapter(file)
        try:
            effect = self._effect(adapter, sequence)
            if not effect > LEAST_EFFECT:  # also when it is no number
                raise AdapterRefused(
                    f"{file}: the adapter changes the base's logits by {effect:.2g} of their norm, expected "
                    f"more than {LEAST_EFFECT:g}: it has no effect here, so the base would answer in its name"
                )
        except BaseException:
            self._model.free_adapter(adapter)
            raise
        resident = LoadedAdapter(name, digest, adapter, next(self._serials), effect)
        self._bytes[name] = found_bytes
        self._all[name] = resident
        self._turns.append(resident)
        self._doors.append(resident)
        return resident

    def _require_same_bytes(self, name: str, file: Path) -> str:
        try:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise NotServable(f"{file}: {error.strerror}; expected a GGUF adapter") from None
        if self._bytes.get(name, found) != found:
            raise AdapterRefused(
                f"{file} is not the file that {name} stood for before (sha256 {found[:12]}…, expected "
                f"{self._bytes[name][:12]}…); an adapter's name stands for one artifact only"
            )
        return found

    def _effect(self, adapter: Adapter, sequence: int) -> float:
        if self._base_logits is None:
            self._base_logits = self._probe(None, sequence)
        change = self._probe(adapter, sequence) - self._base_logits
        return float(np.linalg.norm(change) / np.linalg.norm(self._base_logits))

    def _probe(self, adapter: Adapter | None, sequence: int) -> NDArray[np.float32]:
        tokens = self._model.tokenize(PROBE, add_special=True)
        self._in_use = None
        self._model.use(adapter)
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
        found = self._all.get(name)
        if found is None:
            raise UnknownModel(f"the adapter {name!r} is not loaded")
        found.leaving = True
        return found

    def leaving(self) -> list[LoadedAdapter]:
        """Those that may go now: told to, and with nothing left to do."""
        return [one for one in self if one.leaving and not one.waiting and not one.active]

    def free(self, resident: LoadedAdapter) -> None:
        """Give its memory back and tell who waits for that."""
        if self._in_use is resident:
            self._model.use(None)
            self._in_use = None
        del self._all[resident.name]
        self._turns.remove(resident)
        self._doors.remove(resident)
        assert resident.adapter is not None
        self._model.free_adapter(resident.adapter)
        resident.gone.set_result(None)

    def use(self, resident: LoadedAdapter) -> bool:
        """Decode with it from now on; returns whether that was a switch."""
        if self._in_use is resident:
            return False
        self._model.use(resident.adapter)
        self._in_use = resident
        return True

    def busy(self) -> bool:
        """Whether there is anything to do."""
        return any(one.waiting or one.active or one.leaving for one in self)

    def next_active(self) -> LoadedAdapter | None:
        """Whose turn it is to decode."""
        return _next(self._turns, lambda one: bool(one.active))

    def next_waiting(self) -> tuple[LoadedAdapter, Answer] | None:
        """Whose turn it is to begin, and with which answer."""
        found = _next(self._doors, lambda one: bool(one.waiting))
        return None if found is None else (found, found.waiting.popleft())


def _next(line: deque[LoadedAdapter], wanted: Callable[[LoadedAdapter], bool]) -> LoadedAdapter | None:
    """The first that is wanted, which goes to the end of the line."""
    for resident in line:
        if wanted(resident):
            line.remove(resident)
            line.append(resident)
            return resident
    return None
