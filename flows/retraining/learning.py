"""What a run would learn from, in digests, and whether that is new since a target's last run.

Asked before anything starts: a night in which nothing is new costs a look at each source, and no stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.recipe import Recipe
from flows.run.feed_input import at_watermark, watermark
from flows.run.find_or_make import stage_inputs
from flows.run.fingerprint import pinned
from registry import Registry
from registry.artifacts import digest
from stages.config.prepare import PrepareConfig
from stages.contract import StageConfig
from stages.data.source import open_source


@dataclass(frozen=True)
class Learned:
    """`digest`: all that decides the result; `base_key`: the base alone; `rows`: the source's, if counted."""

    digest: str
    base_key: str
    rows: int | None


@dataclass
class Sources:
    """Looks at each source once, however many targets share it. Good for one look at a schedule."""

    registry: Registry
    count: bool = False
    """Count rows, too: reads all data."""
    _marked: dict[str, str] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)

    def learned(self, recipe: Recipe) -> Learned:
        """What a run of the recipe would learn from now. Raises as `pinned` and `at_watermark` do."""
        source = recipe.prepare.source
        if source not in self._marked:  # reads the directory that a feed watches
            self._marked[source] = at_watermark(recipe, self.registry).prepare.source
        prepare = recipe.prepare.model_copy(update={"source": self._marked[source]})
        recipe = recipe.model_copy(update={"prepare": prepare})
        base_key = self._key("resolve", recipe.base)
        # the base's id is no parent here: it need not be in the registry yet, and base_key stands for it
        prepare_key = self._key("prepare", recipe.prepare)
        tasks = pinned(recipe.evaluate)
        rest = recipe.model_dump(mode="json", exclude={"description", "deploy"})
        return Learned(
            digest([base_key, prepare_key, tasks, rest]),
            base_key,
            self._counted(recipe.prepare, prepare_key) if self.count else None,
        )

    def _key(self, stage: str, config: StageConfig) -> str:
        asked = digest([stage, config.model_dump(mode="json")])
        if asked not in self._keys:
            self._keys[asked] = stage_inputs(stage, config, {}).key
        return self._keys[asked]

    def _counted(self, config: PrepareConfig, key: str) -> int:
        if key not in self._rows:
            self._rows[key] = rows_of(config, self.registry)
        return self._rows[key]


def rows_of(config: PrepareConfig, registry: Registry) -> int:
    """How many rows the source has now, before any is rejected; of a feed, how many it ever had."""
    mark = watermark(config, registry)
    if mark is not None:
        return mark.number
    source = open_source(config.source, config.format, config.hub_config, config.hub_split)
    return sum(1 for _ in source.rows())
