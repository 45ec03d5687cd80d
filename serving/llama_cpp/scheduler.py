"""Many answers at once over one model, each with the adapter it asked for and no other.

One thread owns llama.cpp. It takes turns between adapters: for a few steps it decodes, in one batch, every
answer that uses the adapter in turn, then switches. Each answer has a sequence of its own, so keys and values
made with one adapter are never read with another. What an answer leaves behind in its sequence is used again
only for the same load of the same adapter and the same salt (`cache_key`); without a salt it is dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from serving.errors import EngineFailed, ServingError
from serving.llama_cpp.loaded_adapters import LoadedAdapter, LoadedAdapters, cache_key
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.sequences import (
    Answer,
    Event,
    Failed,
    Finished,
    Sequence,
    Token,
    TokenCounts,
    next_batch,
)
from serving.llama_cpp.states import Texts, read_states
from serving.llama_cpp.structured.constraints import SchemaRefused

TURN_STEPS = 4
"""Steps before another adapter has its turn; a switch costs about half a step of a very small model."""


class Batcher:
    """Owns `model`. `parallel` answers are decoded at once, `queue` more may wait."""

    def __init__(self, model: LlamaModel, base_name: str, parallel: int, queue: int, adapters: int) -> None:
        self.model = model
        self.base_name = base_name
        self.counts = TokenCounts()
        self.loaded = LoadedAdapters(model, base_name, adapters, parallel)
        self._limit = queue
        self._sequences = [Sequence(number) for number in range(parallel)]
        self._commands: deque[tuple[Callable[[], LoadedAdapter], Future[LoadedAdapter]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._beat = time.monotonic()
        self.when_stopped: Callable[[], object] = lambda: None
        """Called on the engine's thread when it ends, for whatever reason."""
        self._thread = threading.Thread(target=self._run, name="llama.cpp", daemon=True)
        self._thread.start()

    # What other threads call

    def submit(self, *answers: Answer) -> None:
        """Queue the answers to one request, all or none. Raises `UnknownModel`, or `Overloaded` at the limit.

        Then the newest answers of the adapter with the most waiting give way to another adapter's: one tenant
        cannot fill the queue for the others.
        """
        with self._wake:
            self._require_running()
            self.loaded.queue(answers, self._limit, self.counts)
            self._wake.notify()

    def cancel(self, answer: Answer) -> None:
        """Nobody wants it any more; safe at any time. Its place in the queue is free at once."""
        with self._wake:
            answer.cancelled = True
            self.counts.cancelled += self.loaded.drop(answer)
            self._wake.notify()

    def load(self, name: str, digest: str, path: Path) -> Future[LoadedAdapter]:
        """Load an adapter, once however often it is asked for; see `LoadedAdapters.load`."""

        def act() -> LoadedAdapter:
            free = self._free_sequence()
            assert free is not None
            self._clear(free)
            return self.loaded.load(name, digest, path, free.number)

        return self._command(act)

    def unload(self, name: str) -> Future[None]:
        """Take no more requests for it, finish those there are, then free it.

        Raises `UnknownModel` at once where it is not loaded.
        """
        with self._wake:
            adapter = self.loaded.leave(name)
            self._wake.notify()
        return adapter.gone

    def beat(self) -> float:
        """Seconds since the engine's thread last went round."""
        return time.monotonic() - self._beat

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def queued(self) -> dict[str, tuple[int, int]]:
        """Served name → answers waiting and answers under way."""
        with self._wake:
            return self.loaded.queued()

    def stop(self) -> None:
        """End the thread and free the model; answers under way fail."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _command(self, act: Callable[[], LoadedAdapter]) -> Future[LoadedAdapter]:
        future: Future[LoadedAdapter] = Future()
        with self._wake:
            self._require_running()
            self._commands.append((act, future))
            self._wake.notify()
        return future

    def _require_running(self) -> None:
        if not self.alive:
            raise EngineFailed("the engine is stopping")

    # The engine's thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._obey()
                self._drop_cancelled()
                self._admit()
                if (adapter := self.loaded.next_active()) is not None:
                    self._turn(adapter)
                self._release()
        finally:
            self._stopping = True
            self._fail_all("the engine has stopped")
            self.model.close()
            self.when_stopped()

    def _wait(self) -> bool:
        with self._wake:
            while not (self._stopping or self._commands or self.loaded.busy()):
                self._beat = time.monotonic()
                self._wake.wait(1.0)
            self._beat = time.monotonic()
            return not self._stopping

    def _obey(self) -> None:
        """Loads need a sequence for their probe; they wait until one is free, and answers wait for them."""
        while self._commands and self._free_sequence() is not None:
            act, future = self._commands.popleft()
            try:
                future.set_result(act())
            except ServingError as error:
                future.set_exception(error)

    def _admit(self) -> None:
        while not self._commands and self._free_sequence() is not None:
            with self._wake:
                turn = self.loaded.next_waiting()
                if turn is None:
                    return
                adapter, answer = turn
                adapter.active.append(answer)
            self._seat(adapter, answer)

    def _seat(self, adapter: LoadedAdapter, answer: Answer) -> None:
        """Give it the sequence that holds the most of its prompt, or one that holds the least."""
        key = cache_key(adapter, answer)
        cached = {idle.number: idle.holds(key, answer.prompt) for idle in self._idle()}
        best = max(self._idle(), key=lambda idle: (cached[idle.number], -len(idle.tokens), -idle.used))
        answer.read = answer.cached = cached[best.number]
        self.model.forget(best.number, answer.read)
        best.answer, best.key = answer, key
        self.counts.answers += answer.sequence < 0  # texts have a sequence more than once
        answer.sequence = best.number
        answer.sampler = self.model.sampler(answer.sampling, answer.constraint)
        self.counts.prompt_tokens += len(answer.prompt)
        self.counts.cached_tokens += answer.cached

    def _turn(self, line: LoadedAdapter) -> None:
        """A few steps for every answer of one adapter; one step for texts, which takes longer."""
        if self.loaded.use(line):
            self.counts.switches += 1
        for step in range(1 if line is self.loaded.texts else TURN_STEPS):
            if not line.active or (step and self._commands):
                return
            ready, read = list[tuple[Answer, int]](), list[Texts]()
            try:
                if line is self.loaded.texts:
                    read = read_states(self.model, line.active, self.loaded.answering())
                else:
                    entries, ready = next_batch(line.active)
                    self.model.decode(entries)
            except EngineFailed as error:
                for answer in list(line.active):
                    self._end(line, answer, Failed(str(error)), keep=False)
                return
            for answer, entry in ready:
                self._grow(line, answer, entry)
            for texts in read:
                self._go_on(line, texts)
            self._beat = time.monotonic()
            self._drop_cancelled()

    def _go_on(self, line: LoadedAdapter, texts: Texts) -> None:
        """With a request's next text, if it has one; after whoever waits for a place."""
        if not texts.next_text():
            self._end(line, texts, Finished("stop"))
            return
        with self._wake:
            gives_way = not texts.cancelled and (bool(self._commands) or self.loaded.anybody_waits())
            if gives_way:
                self._leave(line, texts)
                line.waiting.append(texts)
        if not gives_way:
            self.model.forget(texts.sequence)
            self.counts.prompt_tokens += len(texts.prompt)

    def _grow(self, adapter: LoadedAdapter, answer: Answer, entry: int) -> None:
        assert answer.sampler is not None
        try:
            token = answer.sampler.choose(entry)
        except SchemaRefused as error:
            self._end(adapter, answer, Failed(str(error), "invalid_schema"))
            return
        if self.model.ends(token):
            self._end(adapter, answer, Finished("stop"))
            return
        answer.tokens.append(token)
        self.counts.answer_tokens += 1
        piece = self.model.name_of(token) if token in answer.spoken else self.model.piece(token)
        answer.tell(Token(piece, answer.sampler.score))
        length = len(answer.tokens) - len(answer.prompt)
        if answer.sampler.complete:
            self._end(adapter, answer, Finished("stop"))
        elif length >= answer.max_tokens or len(answer.tokens) >= self.model.context_length:
            self._end(adapter, answer, Finished("length"))

    def _end(self, adapter: LoadedAdapter, answer: Answer, event: Event, keep: bool = True) -> None:
        self._leave(adapter, answer, keep)
        self.counts.failed += isinstance(event, Failed) and not answer.cancelled
        answer.tell(event)

    def _leave(self, adapter: LoadedAdapter, answer: Answer, keep: bool = True) -> None:
        """Its sequence is free for another one."""
        sequence = self._sequences[answer.sequence]
        with self._wake:
            adapter.active.remove(answer)
        sequence.answer, sequence.used = None, time.monotonic()
        sequence.tokens = answer.tokens[: answer.read]
        if sequence.key is None or not keep:
            self._clear(sequence)
        if answer.sampler is not None:
            answer.sampler.close()

    def _drop_cancelled(self) -> None:
        for adapter in self.loaded.lines():
            for answer in [answer for answer in adapter.active if answer.cancelled]:
                self.counts.cancelled += 1
                self._end(adapter, answer, Failed("cancelled"))

    def _release(self) -> None:
        """Free the adapters that were told to leave and have nothing left to do."""
        for adapter in self.loaded.leaving():
            for sequence in self._sequences:
                if sequence.key is not None and sequence.key[0] == adapter.serial:
                    self._clear(sequence)
            with self._wake:
                self.loaded.free(adapter)

    def _clear(self, sequence: Sequence) -> None:
        self.model.forget(sequence.number)
        sequence.key, sequence.tokens = None, []

    def _idle(self) -> Iterator[Sequence]:
        return (sequence for sequence in self._sequences if sequence.answer is None)

    def _free_sequence(self) -> Sequence | None:
        return max(self._idle(), key=lambda idle: (not idle.tokens, -idle.used), default=None)

    def _fail_all(self, why: str) -> None:
        for adapter in self.loaded.lines():
            for answer in list(adapter.active):
                self._end(adapter, answer, Failed(why))
            with self._wake:
                while adapter.waiting:
                    adapter.waiting.popleft().tell(Failed(why))
            if adapter.leaving:
                adapter.gone.set_exception(EngineFailed(why))
        for _, future in self._commands:
            future.set_exception(EngineFailed(why))
