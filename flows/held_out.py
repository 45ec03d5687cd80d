"""Which earlier dataset a recipe's new one goes on from, so that what was held out stays held out."""

from __future__ import annotations

from flows.gates.ancestry import ancestry
from flows.recipe import Recipe
from registry import Artifact, Registry
from stages.config.feed import feed_of


def previous_dataset(registry: Registry, recipe: Recipe) -> dict[str, Artifact]:
    """Under `previous`, the data of what the recipe's channel serves, where both are of one feed.

    Of datasets that read as far as this recipe does, or further, the one that they went on from: so the same
    watermark gives the same dataset, whether or not it was promoted. Nothing where there is none, or its
    files were collected.
    """
    named = feed_of(recipe.prepare.source)
    if named is None or recipe.promote is None:
        return {}
    channel = registry.channels.get(recipe.promote.channel)
    data = ancestry(registry, registry.get(channel.artifact_id)).dataset if channel is not None else None
    while data is not None:
        theirs = feed_of(str(data.manifest.config.get("source", "")))
        if theirs is None or theirs[0] != named[0] or registry.collected([data.id]):
            return {}
        if (theirs[1] or 0) < (named[1] or 0):
            return {"previous": data}
        older = [edge.id for edge in data.manifest.parents if edge.relation == "grown_from"]
        data = registry.get(older[0]) if older else None
    return {}
