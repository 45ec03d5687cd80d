"""Which earlier dataset a recipe's new one goes on from, so that what was held out stays held out."""

from __future__ import annotations

from collections.abc import Iterator

from flows.gates.ancestry import ancestry
from flows.recipe import Recipe
from registry import Artifact, Registry
from stages.config.feed import feed_of
from stages.config.prepare import PrepareConfig

_HOLDS_OUT = {"split", "seed", "system", "near_duplicates", "max_rows", "max_length"}
"""Keys of `prepare` that decide which rows are held out, and which are like them."""


def previous_dataset(registry: Registry, recipe: Recipe) -> dict[str, Artifact]:
    """Under `previous`, the data of what the recipe's channel serves, or served last of the recipe's feed.

    Of datasets that read as far as this recipe does, or further, and hold rows out by the same keys, the one
    that they went on from: so the same watermark gives the same dataset, whether or not it was promoted.
    Where the files of that one were collected, the one that went on from it, which holds out the same rows.
    Nothing where the channel never served a model of the feed.
    """
    named = feed_of(recipe.prepare.source)
    if named is None or recipe.promote is None:
        return {}
    previous: Artifact | None = None
    data = next(_served(registry, recipe.promote.channel, named[0]), None)
    while data is not None and (previous is None or not registry.collected([data.id])):
        previous = data
        if _watermark(data, named[0]) < (named[1] or 0) or not _alike(data, recipe.prepare):
            return {"previous": data}
        older = [edge.id for edge in data.manifest.parents if edge.relation == "grown_from"]
        if not older:
            return {}
        data = registry.get(older[0])
    return {} if previous is None else {"previous": previous}


def _served(registry: Registry, channel: str, feed: str) -> Iterator[Artifact]:
    """The data of this feed of what the channel serves, then of what it served before."""
    for event in reversed(registry.channels.history(channel)):
        data = ancestry(registry, registry.get(event.artifact_id)).dataset
        if data is not None and _watermark(data, feed) > 0:
            yield data


def _watermark(data: Artifact, feed: str) -> int:
    """How far a dataset read the feed; 0 for one of other data."""
    named = feed_of(str(data.manifest.config.get("source", "")))
    return named[1] or 0 if named is not None and named[0] == feed else 0


def _alike(data: Artifact, config: PrepareConfig) -> bool:
    """Whether the dataset was made by the same keys, as far as they decide what is held out."""
    asked = config.model_dump(mode="json", include=_HOLDS_OUT)
    return all(data.manifest.config.get(key) == value for key, value in asked.items())
