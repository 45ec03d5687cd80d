"""How an artifact is born: found under its memo key, or made in a draft and committed.

The key decides when work is done again, the manifest what the artifact's id is: both stand here and nowhere
else. What does the work, and who watches it, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.run.arithmetic import this_machine
from flows.run.child import WarmWorker, run_in_child
from flows.run.fingerprint import pinned
from registry import Artifact, Registry
from registry.artifacts import Parentage, Relation, StageResult, memo_key
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.leases import Patience
from stages.contract import Facts, Parent, ProgressEvent, StageConfig, toolchain
from stages.run import stage_module

Make = Callable[[Draft], tuple[Facts, ResourceUse]]


@dataclass(frozen=True)
class StageInputs:
    """What decides a stage's result, as the memo key has it. `parents`: role → artifact; `relations`: role →
    how the result relates to that parent."""

    stage: str
    version: int
    config: Mapping[str, Any]
    parents: Mapping[str, Artifact] = field(default_factory=dict)
    relations: Mapping[str, Relation] = field(default_factory=dict)
    toolchain: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, Any] = field(default_factory=dict)
    """What decides the result beside the config, and has another place in the manifest."""

    @property
    def key(self) -> str:
        """The memo key."""
        ids = {role: parent.id for role, parent in self.parents.items()}
        return memo_key(self.stage, self.version, {**self.config, **self.outside}, ids, self.toolchain)


def stage_inputs(stage: str, config: StageConfig, parents: Mapping[str, Artifact]) -> StageInputs:
    """What decides the result of one of the verbs in `stages`."""
    verb = stage_module(stage)
    tools = toolchain((*verb.TOOLS, *config.tools))
    return StageInputs(stage, verb.VERSION, pinned(config), parents, verb.RELATIONS, tools)


def find_or_make(
    registry: Registry, inputs: StageInputs, make: Make, patience: Patience
) -> tuple[Artifact, ResourceUse | None]:
    """The artifact, and what it took, None where it was there already. Raises what `make` raises."""
    key = inputs.key
    if (artifact := registry.find(key)) is not None:
        return artifact, None
    with registry.draft(key, inputs.stage, [p.id for p in inputs.parents.values()], patience) as draft:
        if (artifact := registry.find(key)) is not None:  # another process made it meanwhile
            return artifact, None
        facts, use = make(draft)
        parents = [Parentage(relation=inputs.relations[role], id=p.id) for role, p in inputs.parents.items()]
        result = StageResult(
            stage=inputs.stage,
            stage_version=inputs.version,
            config=inputs.config,
            toolchain=inputs.toolchain,
            parents=tuple(parents),
            **vars(facts),
        )
        return draft.commit(result, use), use


def make_in_child(
    registry: Registry,
    inputs: StageInputs,
    config: BaseModel,
    draft: Draft,
    log: Path,
    on_progress: Callable[[ProgressEvent], None],
    worker: WarmWorker | None = None,
) -> tuple[Facts, ResourceUse]:
    """Run the stage in a child process that writes into the draft. Raises as `run_in_child` does."""
    parents = {role: as_parent(registry, artifact) for role, artifact in inputs.parents.items()}
    execution = run_in_child(inputs.stage, parents, config, draft.path, log, on_progress, worker)
    use = ResourceUse(execution.started, execution.seconds, execution.peak_bytes, this_machine())
    return Facts.model_validate(execution.facts), use


def as_parent(registry: Registry, artifact: Artifact) -> Parent:
    """`artifact` as a stage sees it."""
    manifest = artifact.manifest
    return Parent(
        id=artifact.id,
        kind=manifest.kind,
        path=registry.view(artifact.id),
        base=manifest.base,
        quant=manifest.quant,
        metrics=manifest.metrics,
    )
