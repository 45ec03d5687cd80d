"""Ctrl-C and SIGTERM while a run is recorded: they end its steps, and neither its record nor its report."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self


class Interruptions:
    """Context manager that holds SIGINT and SIGTERM back; within `allowed` they raise KeyboardInterrupt.

    One that came before raises there at once; a second one does not wait. Signals that somebody else handles
    are left alone, and so are all where this is not the main thread.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._allowed = self._came = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            for number, handler in usual.items():
                if signal.getsignal(number) is handler:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """The block may be interrupted."""
        self._allowed = True
        try:
            if self._came:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = self._came = False

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self._allowed or self._came:
            raise KeyboardInterrupt
        self._came = True
