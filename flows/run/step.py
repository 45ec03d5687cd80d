"""One step of a run: find a stage's result in the registry, or draft it, run it in a child, commit it.

Each step is a task in Prefect, which is told of it and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from flows.run.arithmetic import Arithmetic, as_asked, this_machine
from flows.run.child import WarmWorker, run_in_child
from flows.run.fingerprint import pinned
from flows.run.prefect_view import PrefectView
from flows.run.progress_view import ProgressView
from flows.run.stage_row import StageRow
from flows.run.standalone_stage import as_parent
from flows.settings import Settings
from flows.wording import duration
from registry import Artifact, Registry
from registry.artifacts import Parentage, Relation, memo_key
from registry.errors import Held
from stages.compatible import require_compatible
from stages.contract import Facts, Parent, toolchain
from stages.run import stage_module

T = TypeVar("T")

RELATIONS: dict[tuple[str, str], Relation] = {
    ("prepare", "base"): "tokenized_for",
    ("train", "base"): "adapter",
    ("train", "dataset"): "trained_on",
    ("merge", "base"): "merge",
    ("merge", "adapter"): "merge",
    ("quantize", "model"): "quantized",
    ("quantize", "dataset"): "calibrated_on",
    ("quantize", "base"): "adapter",
    ("evaluate", "model"): "evaluation_of",
    ("evaluate", "adapter"): "evaluation_of",
    ("evaluate", "base"): "tokenized_for",
    ("evaluate", "rival"): "evaluation_of",
    ("evaluate", "reference"): "compared_with",
    ("evaluate", "reference_adapter"): "compared_with",
    ("evaluate", "dataset"): "evaluated_on",
}
"""(stage, the parent's role) → how the result relates to that parent."""


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

    def step(self, stage: str, config: BaseModel, label: str, **parents: Artifact) -> Artifact:
        """The result of `stage`, from the registry or made now, as a step of that label."""
        return self.task(stage, label, lambda: self._find_or_make(stage, config, label, parents))

    def task(self, stage: str, label: str, work: Callable[[], tuple[T, StageRow]]) -> T:
        """Run `work`, shown as `label` in the terminal and in Prefect; keep its row, also when it fails."""
        started = time.monotonic()
        self.view.looking(label)
        if self.prefect is not None:
            self.prefect.stage(stage, label)
        try:
            result, row = work()
        except BaseException as error:
            row = failed_row(label, stage, time.monotonic() - started, error)
            raise
        finally:
            self.rows.append(row)
            self.view.finished(label, row.seconds, row.peak_bytes, row.state)
            if self.prefect is not None:
                self.prefect.ended(row)
        return result

    def _find_or_make(
        self, stage: str, config: BaseModel, label: str, parents: Mapping[str, Artifact]
    ) -> tuple[Artifact, StageRow]:
        require_compatible(stage, config, {role: p.manifest for role, p in parents.items()})
        module, started = stage_module(stage), time.monotonic()
        canonical, tools = pinned(config), toolchain(module.TOOLS)
        key = memo_key(stage, module.VERSION, canonical, {r: p.id for r, p in parents.items()}, tools)
        if (found := self.registry.find(key)) is not None:
            return found, StageRow(label, stage, found.id, "reused", time.monotonic() - started, None, "")
        self.view.stage(label)
        others, needed = _Others(self.view), [parent.id for parent in parents.values()]
        with self.registry.draft(key, stage, needed, others.patience) as draft:
            if (found := self.registry.find(key)) is not None:  # another run made it meanwhile
                seconds = time.monotonic() - started
                return found, StageRow(label, stage, found.id, "reused", seconds, None, others.note)
            if others.note:
                self.view.stage(label)
            execution = run_in_child(
                stage, {role: self.parent(p) for role, p in parents.items()}, config, draft.path,
                self.log(label), _Watch(self.view, self.prefect, draft.touch), self.stand_by,
            )  # fmt: skip
            facts = Facts.model_validate(execution.facts)
            artifact = draft.commit(
                stage=stage,
                stage_version=module.VERSION,
                config=canonical,
                toolchain=tools,
                facts_kind=facts.kind,
                relations=tuple(
                    Parentage(relation=RELATIONS[stage, role], id=p.id) for role, p in parents.items()
                ),
                base=facts.base,
                quant=as_asked(facts.quant, stage, self.arithmetic),
                metrics=facts.metrics,
                execution={
                    "seconds": execution.seconds,
                    "peak_bytes": execution.peak_bytes,
                    "machine": this_machine(),
                    "started": datetime.fromtimestamp(execution.started, UTC).isoformat(),
                },
            )
        row = StageRow(label, stage, artifact.id, "ran", execution.seconds, execution.peak_bytes, "")
        return artifact, row

    def parent(self, artifact: Artifact) -> Parent:
        """`artifact` as a stage sees it."""
        return as_parent(self.registry, artifact)

    def log(self, label: str) -> Path:
        """Where the output of the stage with this label goes."""
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in label.lower())
        return self.folder / "logs" / f"{name}.log"


class _Watch:
    """Passes progress on to the terminal and to Prefect and, every few seconds, renews the lease."""

    def __init__(
        self, view: ProgressView, prefect: PrefectView | None, touch: Callable[[], None], every: float = 5.0
    ) -> None:
        self.view, self.prefect, self.touch, self.every = view, prefect, touch, every
        self.touched = time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        self.view.update(event)
        if self.prefect is not None:
            self.prefect.progress(event)
        if time.monotonic() - self.touched >= self.every:
            self.touched = time.monotonic()
            self.touch()


class _Others:
    """Waits for whoever makes the same result already, and says who."""

    def __init__(self, view: ProgressView) -> None:
        self.view, self.note = view, ""
        self.patience = Settings().patience(self._told)

    def _told(self, held: Held, waited: float) -> None:
        self.view.waiting(f"{held.holder} makes the same")
        self.note = f"waited {duration(waited)} for {held.holder}"


def failed_row(label: str, stage: str, seconds: float, error: BaseException) -> StageRow:
    """The row of what ended with `error`, which may be an interruption."""
    if isinstance(error, KeyboardInterrupt):
        why = "interrupted; the same command again goes on from here"
        return StageRow(label, stage, None, "interrupted", seconds, None, why)
    return StageRow(label, stage, None, "failed", seconds, None, str(error) or type(error).__name__)
