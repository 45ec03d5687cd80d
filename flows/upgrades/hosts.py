"""The bases that engines have to hold before a channel moves to an adapter of theirs.

A channel that moved to an adapter of a base that no engine holds is refused to its tenants. So the new base
is made and named first, and what is served now is not moved until an engine has that one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.exchange.bring_base import resolved
from flows.execute import bring_converter
from flows.gates.ancestry import host_in, is_gguf_adapter
from flows.recipe import Recipe
from flows.run.find_or_make import find_or_make, make_in_child, stage_inputs
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
    """Whether a live engine holds what channels that leave it are served over now, and none holds this."""


def hosts(registry: Registry, steps: Sequence[Step]) -> list[Host]:
    """Make and name what the steps' channels will be served over. Raises as the stages do."""
    needed: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.recipe is not None and is_apart(step.recipe):
            assert step.recipe.adapter is not None
            key = (step.recipe.base.model_dump_json(), step.recipe.adapter.base)
            needed.setdefault(key, []).append(step)
    held, made = _held(registry), []
    for same in needed.values():
        assert same[0].recipe is not None
        artifact, name = _made(registry, same[0].recipe)
        leave = [step for step in same if not _stays(registry, step)]
        served = any(_served_over(registry, step.channel) & held for step in leave)
        missing = served and artifact.id not in held
        made.append(Host(artifact, name, tuple(step.channel for step in same), missing))
    return made


def on_their_own(registry: Registry, steps: Sequence[Step]) -> list[str]:
    """Channels that a live engine answers over a base, and that would become models with their own engines.

    No engine can hold such a model before its channel has moved.
    """
    held = _held(registry)
    whole = (step for step in steps if step.recipe is not None and not is_apart(step.recipe))
    return [step.channel for step in whole if _served_over(registry, step.channel) & held]


def _held(registry: Registry) -> set[str]:
    """What live engines of this host hold."""
    running = registry.endpoints.ls(running_only=True)
    return {endpoint.artifact_id for endpoint in running if endpoint.process.is_alive()}


def _served_over(registry: Registry, channel: str) -> set[str]:
    """The ids of what the channel's adapter was measured over, one of which engines hold for it.

    Not what it was measured over last: an upgrade that did not pass has measured it over another base.
    """
    live = _live(registry, channel)
    if live is None or live.manifest.kind != "adapter":
        return set()
    measured = (host_in(evaluation, live) for evaluation in registry.evaluations(live.id))
    return {host for host in measured if host is not None}


def _stays(registry: Registry, step: Step) -> bool:
    """Whether the adapter is kept as the file that it is, which engines load over either form of its base.

    Its tenants are not refused; and were the new form held beside the old one before the gate has let it
    pass, both would answer.
    """
    live, recipe = _live(registry, step.channel), step.recipe
    apart = recipe is not None and recipe.adapter is not None and not recipe.adapter.on_16bit
    return step.does == "keep" and live is not None and is_gguf_adapter(live) and apart


def _live(registry: Registry, channel: str) -> Artifact | None:
    current = registry.channels.get(channel)
    return None if current is None else registry.get(current.artifact_id)


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
        inputs = stage_inputs("quantize", config, {"model": base})

        def make(draft: Draft) -> tuple[Facts, ResourceUse]:
            return make_in_child(registry, inputs, config, draft, log, lambda _: draft.touch())

        made = find_or_make(registry, inputs, make, Settings().patience())[0]
    name = resident_name(base.manifest.base, recipe.adapter.base)
    return made, f"{name}@{registry.name(made.id, name)}"
