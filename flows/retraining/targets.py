"""For whom a schedule retrains, and the recipe for each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from flows.configuration.overrides import apply_overrides, parse_overrides
from flows.configuration.validation import validate
from flows.errors import InvalidRecipe, Usage
from flows.recipe import Recipe, anchor
from registry import Registry
from registry.schedules.definition import Definition

PLACES = ("tenant", "channel", "team", "name")


@dataclass(frozen=True)
class Target:
    """A tenant, or a channel, and the channel that is retrained for it."""

    name: str
    channel: str
    tenant: str | None = None


def targets_of(registry: Registry, definition: Definition) -> list[Target]:
    """All targets, by name. Raises `Usage` for tenants that share a channel: whose data would it learn?"""
    if definition.tenants is None:
        channels = definition.channels or (own_channel(definition),)
        return [Target(channel, channel) for channel in channels]
    tenants = [t for t in registry.tenants.ls() if fnmatchcase(t.name, definition.tenants)]
    owners: dict[str, str] = {}
    for tenant in tenants:
        other = owners.setdefault(tenant.channel, tenant.name)
        if other != tenant.name:
            raise Usage(
                f"tenants {other} and {tenant.name} share the channel {tenant.channel}, and the pattern "
                f"{definition.tenants!r} names both: give each a channel of its own, or use --channel"
            )
    return [Target(tenant.name, tenant.channel, tenant.name) for tenant in tenants]


def own_channel(definition: Definition) -> str:
    """The channel that the recipe itself promotes to. Raises `Usage` where it promotes to none."""
    channel = (definition.recipe.get("promote") or {}).get("channel")
    if channel is None:
        raise Usage(
            f"{definition.recipe_name} has no promote section, so nothing would come of a night: add `gate` "
            "and `promote` to it"
        )
    return str(channel)


def recipe_for(definition: Definition, target: Target) -> Recipe:
    """The recipe with what the schedule sets in it, for this target. Raises `InvalidRecipe`."""
    if target.channel in definition.own:
        return validate(Recipe, definition.own[target.channel].recipe, definition.recipe_name)
    tree = copy.deepcopy(definition.recipe)
    given = parse_overrides([filled(text, target) for text in definition.overrides])
    apply_overrides(tree, given)
    own_channel(definition)
    tree["promote"] = {**(tree.get("promote") or {}), "channel": target.channel}
    # paths of the recipe are absolute by now; those that the schedule sets count from nowhere
    anchored = anchor(copy.deepcopy(tree), Path("/"))
    if anchored != anchor(tree, Path("/nowhere")):
        raise InvalidRecipe(
            f"{definition.recipe_name}: a path that a schedule sets has to be absolute: "
            f"{'; '.join(override.shown for override in given)}"
        )
    return validate(Recipe, anchored, definition.recipe_name, given, definition.recipe)


def filled(text: str, target: Target) -> str:
    """The override with the target's words in their places. Raises `InvalidRecipe` for one that it lacks."""
    team, _, name = target.channel.partition("/")
    words = {"tenant": target.tenant, "channel": target.channel, "team": team, "name": name}
    for place, word in words.items():
        hole = f"{{{place}}}"
        if hole in text and word is None:
            raise InvalidRecipe(f"--set {text}: {hole} is for schedules of tenants; use {{name}} or {{team}}")
        text = text.replace(hole, word or "")
    return text
