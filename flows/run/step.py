"""One step of a run, and who is told of it: the terminal, Prefect, the report.

Each step is a task in Prefect, which is told of it and decides nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from flows.errors import Pruned
from flows.formatting import duration
from flows.run.arithmetic import Arithmetic, as_asked
from flows.run.child import WarmWorker
from flows.run.feed_input import handed_over, require_unchanged
from flows.run.find_or_make import find_or_make, make_in_child, stage_inputs
from flows.run.journal import Journal
from flows.run.prefect_view import PrefectView
from flows.run.progress_view import ProgressView
from flows.run.stage_row import Form, StageRow, State, StoppedStep
from flows.settings import Settings
from flows.tracking.curves import FOLDER as CURVES
from flows.tracking.curves import Curves
from registry import Artifact, Registry
from registry.catalog import ResourceUse
from registry.drafts import CHECKPOINTS, Draft
from registry.errors import Held, RegistryError
from registry.store.files import remove_tree
from stages.compatible import require_compatible
from stages.config.train import TrainConfig
from stages.contract import Facts, ProgressEvent, StageConfig
from stages.training_record import read_history

T = TypeVar("T")


@dataclass
class Run:
    """One run of a recipe: its registry, who watches it, and what has happened so far."""

    registry: Registry
    view: ProgressView
    folder: Path
    stand_by: WarmWorker | None = None
    arithmetic: Arithmetic | None = None
    prefect: PrefectView | None = None
    rows: list[StageRow] = field(default_factory=list)
    stopped: list[StoppedStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder)
        self._looks: Callable[[ProgressEvent], None] | None = None

    @contextlib.contextmanager
    def watched(self, look: Callable[[ProgressEvent], None]) -> Iterator[None]:
        """Within the block `look` gets the progress of stages; what it raises ends the stage.

        One that is ended by `Pruned` is never gone on with: it leaves no checkpoints.
        """
        self._looks = look
        try:
            yield
        finally:
            self._looks = None

    def step(
        self, stage: str, config: StageConfig, label: str, form: Form | None = None, /, **parents: Artifact
    ) -> Artifact:
        """The result of `stage`, from the registry or made now, as a step of that label.

        `form`: which form of the model it makes or measures, if it does.
        """
        return self.task(stage, label, lambda: self._find_or_make(stage, config, label, parents), form)

    def task(
        self, stage: str, label: str, work: Callable[[], tuple[T, StageRow]], form: Form | None = None
    ) -> T:
        """Run `work`, shown as `label` in the terminal and in Prefect; keep its row, also when it fails."""
        started = time.monotonic()
        self.view.looking(label)
        self.journal.stage(stage, label)
        if self.prefect is not None:
            self.prefect.stage(stage, label)
        try:
            result, row = work()
        except BaseException as error:
            row = failed_row(label, stage, time.monotonic() - started, error)
            if form is not None and row.state == "failed":
                self.stopped.append(StoppedStep(label, form, row.note))
            raise
        finally:
            self.rows.append(row)
            self.view.finished(label, row.seconds, row.peak_bytes, row.state)
            self.journal.ended(row)
            if self.prefect is not None:
                self.prefect.ended(row)
        return result

    def _find_or_make(
        self, stage: str, config: StageConfig, label: str, parents: Mapping[str, Artifact]
    ) -> tuple[Artifact, StageRow]:
        require_compatible(stage, config, {role: p.manifest for role, p in parents.items()})
        require_unchanged(self.registry, config)
        started, inputs = time.monotonic(), stage_inputs(stage, config, parents)
        others, curves = _Others(self.view, label), self._curves(config, label)

        def make(draft: Draft) -> tuple[Facts, ResourceUse]:
            self.view.stage(label)
            watch = _Watch(self._listeners(curves), draft.touch, self._looks)
            with handed_over(self.registry, config, draft.path), _forgotten_if_pruned(draft):
                facts, use = make_in_child(
                    self.registry, inputs, config, draft, self.log(label), watch, self.stand_by
                )
            return facts.model_copy(update={"quant": as_asked(facts.quant, stage, self.arithmetic)}), use

        with contextlib.ExitStack() as stack:
            if curves is not None:
                stack.callback(curves.close)
            artifact, use = find_or_make(self.registry, inputs, make, others.patience)
        if curves is not None:
            with contextlib.suppress(OSError, RegistryError):  # of an adapter whose files are gone
                curves.whole(read_history(self.registry.view(artifact.id)))
        if use is None:
            seconds = time.monotonic() - started
            return artifact, StageRow(label, stage, artifact.id, "reused", seconds, None, others.note)
        return artifact, StageRow(label, stage, artifact.id, "ran", use.seconds, use.peak_bytes, "")

    def log(self, label: str) -> Path:
        """Where the output of the stage with this label goes."""
        return self.folder / "logs" / f"{_file_name(label)}.log"

    def _curves(self, config: StageConfig, label: str) -> Curves | None:
        """Where the curves of a training go; None of any other stage."""
        if not isinstance(config, TrainConfig):
            return None
        return Curves(self.folder / CURVES / _file_name(label), config)

    def _listeners(self, curves: Curves | None) -> list[Callable[[ProgressEvent], None]]:
        """Who hears of a stage's progress."""
        heard: list[Callable[[ProgressEvent], None]] = [self.view.update, self.journal.progress]
        if self.prefect is not None:
            heard.append(self.prefect.progress)
        if curves is not None:
            heard.append(curves.heard)
        return heard


class _Watch:
    """Passes progress on to its listeners, renews the lease every few seconds; `look` may end the stage."""

    def __init__(
        self,
        listeners: Sequence[Callable[[ProgressEvent], None]],
        touch: Callable[[], None],
        look: Callable[[ProgressEvent], None] | None,
        every: float = 5.0,
    ) -> None:
        self.listeners, self.touch, self.look, self.every = listeners, touch, look, every
        self.touched = time.monotonic()

    def __call__(self, event: ProgressEvent) -> None:
        for listen in self.listeners:
            listen(event)
        if time.monotonic() - self.touched >= self.every:
            self.touched = time.monotonic()
            self.touch()
        if self.look is not None:
            self.look(event)


@contextlib.contextmanager
def _forgotten_if_pruned(draft: Draft) -> Iterator[None]:
    """Remove the checkpoints of a stage that `Pruned` ends; after any other end it goes on from them."""
    try:
        yield
    except Pruned:
        with contextlib.suppress(OSError):
            remove_tree(draft.path / CHECKPOINTS)
        raise


class _Others:
    """Waits for whoever makes the same result already, and says who."""

    def __init__(self, view: ProgressView, label: str) -> None:
        self.view, self.label, self.note = view, label, ""
        self.patience = Settings().patience(self._told)

    def _told(self, held: Held, waited: float) -> None:
        if not self.note:
            self.view.stage(self.label)
        self.view.waiting(f"{held.holder} makes the same")
        self.note = f"waited {duration(waited)} for {held.holder}"


def failed_row(label: str, stage: str, seconds: float, error: BaseException) -> StageRow:
    """The row of what ended with `error`, which may be an interruption."""
    if isinstance(error, KeyboardInterrupt):
        why = "interrupted; the same command again goes on from here"
        return StageRow(label, stage, None, "interrupted", seconds, None, why)
    state: State = "pruned" if isinstance(error, Pruned) else "failed"
    return StageRow(label, stage, None, state, seconds, None, str(error) or type(error).__name__)


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in label.lower())
