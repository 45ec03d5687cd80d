"""The recipe that made what a channel serves: one that is known here, and that makes just that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flows.errors import FlowError
from flows.gates.ancestry import Ancestry
from flows.recipe import Recipe
from flows.retraining.targets import Target, recipe_for, targets_of
from flows.run.arithmetic import with_compute_dtype
from flows.run.fingerprint import pinned
from flows.run.runs import RECIPE, past_runs
from registry import Registry
from registry.artifacts import Manifest
from registry.schedules.definition import Definition
from stages.config.feed import FEED, feed_of
from stages.errors import StageError


@dataclass
class Origins:
    """Looks at schedules and runs once, however many channels are asked about."""

    registry: Registry
    _scheduled: dict[str, list[tuple[Definition, Target]]] = field(default_factory=dict)
    _recipes: dict[str, list[Recipe]] = field(default_factory=dict)
    _pins: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        events = self.registry.schedules.audit()
        states = [Definition.model_validate(event.state["definition"]) for event in reversed(events)]
        for definition in {state.model_dump_json(): state for state in states}.values():
            with suppress(FlowError):
                for target in targets_of(self.registry, definition):
                    self._scheduled.setdefault(target.channel, []).append((definition, target))
        for run in past_runs(self.registry.home):
            with suppress(OSError, ValidationError, FlowError, ValueError):
                recipe = Recipe.model_validate_json((run.folder / RECIPE).read_text("utf-8"))
                if recipe.promote is not None:
                    self._recipes.setdefault(recipe.promote.channel, []).append(recipe)

    def of(self, channel: str, family: Ancestry) -> Recipe | str:
        """The recipe, reading just what was read then; or why there is none."""
        if family.dataset is None or family.adapter is None or family.base is None:
            return "it was imported, so there is no recipe and no data to make it again: train it by a recipe"
        known, changed = 0, "recipe"
        for given in self._known(channel):
            recipe = _on_its_base(given, family.base.manifest)
            if recipe is None:
                continue
            known += 1
            recipe = self._reading_no_further(recipe, family.dataset.manifest)
            if not self._made(recipe.prepare, family.dataset.manifest):
                changed = "data"
                continue
            made = family.adapter.manifest
            same = recipe.train.method == made.config.get("method", "sft")
            if same and self._made(_as_computed(recipe, made), made):
                return recipe
        if not known:
            return "no recipe for it is known here: neither a schedule nor a run of this home has the channel"
        return (
            f"its {changed} changed since it was made, so what the base does could not be told from what "
            "that does: retrain it on its old base first"
        )

    def _known(self, channel: str) -> Iterator[Recipe]:
        """Of schedules, the latest version first, then of this home's runs, the latest first."""
        for definition, target in self._scheduled.get(channel, ()):
            with suppress(FlowError):
                yield recipe_for(definition, target)
        yield from self._recipes.get(channel, ())

    def _reading_no_further(self, recipe: Recipe, dataset: Manifest) -> Recipe:
        """A feed's recipe, up to the dataset's last row: its source, unless rows were forgotten since."""
        read, asked = feed_of(str(dataset.config.get("source", ""))), feed_of(recipe.prepare.source)
        if read is None or asked is None or read[0] != asked[0]:
            return recipe
        source = f"{FEED}:{self.registry.feeds.watermark(*read)}"
        return recipe.model_copy(update={"prepare": recipe.prepare.model_copy(update={"source": source})})

    def _made(self, config: BaseModel, made: Manifest) -> bool:
        """Whether this config is the one in the manifest, as far as that was written then."""
        key = config.model_dump_json()
        if key not in self._pins:
            try:
                self._pins[key] = pinned(config)
            except (StageError, OSError):  # what it reads is gone
                self._pins[key] = {}
        return bool(self._pins[key]) and _holds(self._pins[key], made.config)


def _holds(ours: Any, made: Any) -> bool:
    """Whether all that is in `made` is the same in `ours`, which may have more keys."""
    if isinstance(made, Mapping) and isinstance(ours, Mapping):
        return all(key in ours and _holds(ours[key], value) for key, value in made.items())
    if isinstance(made, list | tuple) and isinstance(ours, list | tuple):
        return len(ours) == len(made) and all(map(_holds, ours, made))
    return bool(ours == made)


def _on_its_base(recipe: Recipe, base: Manifest) -> Recipe | None:
    """The recipe at the commit of the base that was taken; None for one of another base."""
    scheme, _, place = recipe.base.source.partition(":")
    made = str(base.config.get("source", ""))
    if scheme == "hub" and made.partition("@")[0] == f"hub:{place.partition('@')[0]}":
        return recipe.model_copy(update={"base": recipe.base.model_copy(update={"source": made})})
    name = f"path:{Path(place).name}" if scheme == "path" else recipe.base.source
    return recipe if name in (made, made.rpartition("@")[0]) else None


def _as_computed(recipe: Recipe, adapter: Manifest) -> BaseModel:
    """How it trains, with the arithmetic that the run settled on."""
    computed = adapter.config.get("nf4", {}).get("compute_dtype")
    return recipe.train if computed is None else with_compute_dtype(recipe.train, computed)
