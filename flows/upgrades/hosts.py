"""The bases that engines have to hold before a channel moves to an adapter of theirs.

A channel that moved to an adapter of a base that no engine holds is refused to its tenants. So the new base
is made and named first, and what is served now is not moved until an engine has that one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.exchange.bring_base import resolved
from flows.execute import bring_converter
from flows.gates.ancestry import host_of
from flows.recipe import Recipe
from flows.run.find_or_make import find_or_make, make_in_child, stage_work
from flows.run.progress_view import ProgressView
from flows.settings import Settings
from flows.unmerged import resident_name
from flows.upgrades.forms import is_apart
from flows.upgrades.plan import Step
from registry import Artifact, Registry
from registry.catalog import ResourceUse
from registry.drafts import Draft
from stages.contract import Facts


@dataclass(frozen=True)
class Host:
    """A base as engines hold it: its name in the registry, and the channels that need it."""

    artifact: Artifact
    name: str
    channels: tuple[str, ...]
    missing: bool
    """Whether a live engine holds what these channels are served over now, and none holds this."""


def hosts(registry: Registry, steps: Sequence[Step]) -> list[Host]:
    """Make and name what the steps' channels will be served over. Raises as the stages do."""
    needed: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.recipe is not None and is_apart(step.recipe):
            assert step.recipe.adapter is not None
            key = (step.recipe.base.model_dump_json(), step.recipe.adapter.base)
            needed.setdefault(key, []).append(step)
    held = {
        endpoint.artifact_id
        for endpoint in registry.endpoints.ls(running_only=True)
        if endpoint.process.is_alive()
    }
    found = []
    for same in needed.values():
        assert same[0].recipe is not None
        artifact, name = _made(registry, same[0].recipe)
        serving = {host.id for step in same if (host := _serving(registry, step.channel)) is not None}
        missing = bool(serving & held) and artifact.id not in held
        found.append(Host(artifact, name, tuple(step.channel for step in same), missing))
    return found


def _serving(registry: Registry, channel: str) -> Artifact | None:
    """What the channel's adapter was measured over last, which is what engines hold for it."""
    current = registry.channels.get(channel)
    live = None if current is None else registry.get(current.artifact_id)
    return None if live is None or live.manifest.kind != "adapter" else host_of(registry, live)


def _made(registry: Registry, recipe: Recipe) -> tuple[Artifact, str]:
    """The base as all its adapters share it, as a run of the recipe would make it, and its name."""
    assert recipe.adapter is not None
    log = registry.home / "logs" / "upgrade.log"
    log.parent.mkdir(exist_ok=True)
    base = resolved(registry, recipe.base, log)
    assert base.manifest.base is not None
    made = base
    if not recipe.adapter.on_16bit:
        with ProgressView() as view:
            bring_converter(recipe, view)
        config = recipe.adapter.resident
        work = stage_work("quantize", config, {"model": base})

        def make(draft: Draft) -> tuple[Facts, ResourceUse]:
            return make_in_child(registry, work, config, draft, log, lambda _: draft.touch())

        made = find_or_make(registry, work, make, Settings().patience())[0]
    name = resident_name(base.manifest.base, recipe.adapter.base)
    return made, f"{name}@{registry.name(made.id, name)}"
