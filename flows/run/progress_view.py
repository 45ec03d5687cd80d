"""Show how far the running stage is: live in a terminal, as plain lines in a log; always on stderr."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from flows.formatting import duration, plain, size
from flows.run.readers import silence
from stages.contract import ProgressEvent

_RESERVED = {"done", "total", "unit"}
_WINDOW = 60.0
_SPACING = 0.5


class Rate:
    """Units per second over about the last minute, so that a slow start does not spoil the estimate."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def eta(self, now: float, done: float, total: float | None) -> float | None:
        """Record `done` at `now` (seconds); seconds until `total`, or None where nobody can tell."""
        samples = self._samples
        if samples and done < samples[-1][1]:
            samples.clear()
        if not samples or now - samples[-1][0] >= _SPACING:
            samples.append((now, done))
        while len(samples) > 5 and now - samples[0][0] > _WINDOW:
            samples.popleft()
        since, first = samples[0]
        if total is None or now <= since or done <= first:
            return None
        return max(0.0, total - done) * (now - since) / (done - first)


def figures(event: ProgressEvent) -> list[str]:
    """The named figures of an event in words: `loss 1.234`, `166 tokens/s`."""
    parts = []
    for key, value in event.items():
        if key in _RESERVED:
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else plain(str(value))
        name, per_second, _ = key.partition("_per_second")
        name = name.replace("_", " ")
        parts.append(f"{shown} {name}/s" if per_second else f"{name} {shown}")
    return parts


class StderrConsole(Console):
    """Where progress is written. That its reader goes away (`2>&1 | head`) does not end a run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(self.file)


class ProgressView:
    """Context manager that shows one running stage at a time.

    Events have the keys `done`, `total` (None: unknown), `unit` and any named figures. In a terminal the
    stage has a live bar; elsewhere its first event, then at most one per `every` seconds, and its last one
    are written as lines. Events may come from another thread; one that comes when no stage runs is dropped.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        every: float = 5.0,
    ) -> None:
        self._console = console or StderrConsole(stderr=True)
        self._clock = clock
        self._every = every
        self._lock = threading.RLock()
        self._label: str | None = None
        self._rates: dict[str, Rate] = {}
        self._pending: str | None = None
        self._written: float | None = None
        self._waited: float | None = None
        self._task: TaskID | None = None
        self._live: Progress | None = _live(self._console, clock) if self._console.is_interactive else None

    def __enter__(self) -> ProgressView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._close()
            if self._live:
                self._live.stop()

    def note(self, words: str) -> None:
        """Say something that is about the run, and not about how far a stage is."""
        with self._lock:
            self._line(plain(words))

    def looking(self, label: str) -> None:
        """`label` is looked up, which is quick unless its sources are large; a log hears what comes of it."""
        with self._lock:
            self._close()
            if self._live:
                self._begin(label)

    def stage(self, label: str) -> None:
        """`label` runs from now on."""
        with self._lock:
            self._begin(label)
            if self._live is None:
                self._line(f"{self._label}: started")

    def waiting(self, why: str) -> None:
        """The stage waits; called again and again while it does."""
        with self._lock:
            if self._label is None:
                return
            if self._live and self._task is not None:
                self._live.update(self._task, total=None, counted=f"waiting: {plain(why)}")
            elif self._waited is None or self._clock() - self._waited >= _WINDOW:
                self._line(f"{self._label}: waiting: {plain(why)}")
                self._waited = self._clock()

    def _begin(self, label: str) -> None:
        if self._label != plain(label):
            self._close()
        self._label, self._rates = plain(label), {}
        if self._live and self._task is None:
            self._task = self._live.add_task(self._label, total=None, counted="", eta="", figures="")
        elif self._live and self._task is not None:
            self._live.update(self._task, total=None, counted="", eta="", figures="")

    def update(self, event: ProgressEvent) -> None:
        """Show an event of the running stage."""
        with self._lock:
            if self._label is None:
                return
            done, total, unit = event["done"], event.get("total"), str(event.get("unit", ""))
            # A stage may count steps and, in between, validation batches: each has its own pace.
            rate = self._rates.setdefault(unit, Rate())
            eta = rate.eta(self._clock(), done, total)
            counted = f"{done}/{total} {unit}" if total else f"{done} {unit}"
            left = "" if eta is None or done == total else f"about {duration(eta)} left"
            named = figures(event)
            if self._live and self._task is not None:
                self._live.update(
                    self._task,
                    completed=done,
                    total=total,
                    counted=counted,
                    eta=left,
                    figures=", ".join(named),
                )
            else:
                self._plain_update(", ".join(filter(None, [counted, *named, left])))

    def finished(self, label: str, seconds: float, peak_bytes: int | None, state: str) -> None:
        """`label` came to its end: state `ran`, `reused`, `failed`, `interrupted`, `skipped` or
        `pruned`."""
        with self._lock:
            self._close()
            self._line(f"{plain(label)}: {_ending(seconds, peak_bytes, state)}")

    def _plain_update(self, words: str) -> None:
        line = f"{self._label}: {words}"
        if self._written is None or self._clock() - self._written >= self._every:
            self._line(line)
            self._written, self._pending = self._clock(), None
        else:
            self._pending = line

    def _close(self) -> None:
        if self._pending:
            self._line(self._pending)
        if self._live and self._task is not None:
            self._live.remove_task(self._task)
        self._label = self._pending = self._written = self._waited = self._task = None

    def _line(self, words: str) -> None:
        self._console.print(Text(words), soft_wrap=True, highlight=False)


class _Elapsed(ProgressColumn):
    """How long the stage has been under way."""

    def render(self, task: Task) -> Text:
        return Text(duration(task.elapsed or 0.0), style="dim")


def _live(console: Console, clock: Callable[[], float]) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=20),
        _Elapsed(),
        TextColumn("{task.fields[counted]}", markup=False),
        TextColumn("{task.fields[figures]}", markup=False),
        TextColumn("{task.fields[eta]}", style="dim", markup=False),
        console=console,
        refresh_per_second=4,
        transient=True,
        get_time=clock,
        # stdout may carry the one JSON document that a script reads; it must not be diverted.
        redirect_stdout=False,
    )


def _ending(seconds: float, peak_bytes: int | None, state: str) -> str:
    if state == "ran":
        peak = f", peak memory {size(peak_bytes)}" if peak_bytes is not None else ""
        return f"done in {duration(seconds)}{peak}"
    if state == "reused":
        return "reused from the registry"
    if state == "failed":
        return f"FAILED after {duration(seconds)}"
    if state in ("interrupted", "pruned"):
        return f"{state} after {duration(seconds)}"
    return state
