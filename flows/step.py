"""The one Prefect task: find a stage's result in the registry, or draft it, run it in a child, commit it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from flows.arithmetic import Arithmetic, as_asked
from flows.child import StandBy, run_in_child
from flows.pin import pinned
from flows.plain import as_parent
from flows.progress_view import ProgressView
from flows.report.report import StageRow
from registry import Artifact, Registry
from registry.artifacts import Parentage, Relation, memo_key
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
    stand_by: StandBy | None = None
    arithmetic: Arithmetic | None = None
    rows: list[StageRow] = field(default_factory=list)

    def step(self, stage: str, config: BaseModel, label: str, **parents: Artifact) -> Artifact:
        """The result of `stage`, from the registry or made now, as a Prefect task of that label."""
        return self.task(stage, label, lambda: self._find_or_make(stage, config, label, parents))

    def task(self, stage: str, label: str, work: Callable[[], tuple[T, StageRow]]) -> T:
        """Run `work` as a Prefect task; keep its row, also when it fails."""

        def recorded() -> T:
            started = time.monotonic()
            try:
                result, row = work()
            except BaseException as error:
                why = str(error) or "interrupted; the same command again goes on from here"
                row = StageRow(label, stage, None, "failed", time.monotonic() - started, None, why)
                raise
            finally:
                self.rows.append(row)
                self.view.finished(label, row.seconds, row.peak_bytes, row.state)
            return result

        named = task(recorded, name=stage, task_run_name=label, cache_policy=NO_CACHE, persist_result=False)
        return named()

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
        with self.registry.draft(key, stage, holds=[parent.id for parent in parents.values()]) as draft:
            if (found := self.registry.find(key)) is not None:  # another run made it meanwhile
                return found, StageRow(label, stage, found.id, "reused", time.monotonic() - started, None, "")
            execution = run_in_child(
                stage, {role: self.parent(p) for role, p in parents.items()}, config, draft.path,
                self.log(label), _Watch(self.view, draft.touch, label), self.stand_by,
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
    """Passes progress on to the terminal and, every few seconds, to the lease and to Prefect."""

    def __init__(self, view: ProgressView, touch: Callable[[], None], label: str, every: float = 5.0) -> None:
        self.view, self.touch, self.label, self.every = view, touch, label, every
        self.told = time.monotonic()
        self.artifact: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        self.view.update(event)
        if time.monotonic() - self.told < self.every:
            return
        self.told = time.monotonic()
        self.touch()
        if event.get("total"):
            percent = min(100.0, 100.0 * event["done"] / event["total"])
            if self.artifact is None:
                self.artifact = create_progress_artifact(progress=percent, description=self.label)
            else:
                update_progress_artifact(self.artifact, progress=percent)
