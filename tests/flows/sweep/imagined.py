"""A run whose trainings take no time: what a trial comes to follows from its values."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from flows.outcome import RunOutcome
from flows.recipe import load
from flows.run.stage_row import StageRow
from flows.run.step import Run
from flows.settings import Settings
from flows.sweep.config import Pruning, Range, SweepConfig
from flows.sweep.outcome import SweepOutcome
from flows.sweep.space import parameters
from flows.sweep.sweep import Plan, sweep
from flows.sweep.target import target
from registry.artifacts import digest
from stages.errors import Diverged
from tests.flows.evaluation_files import evaluation, write

STEPS, ITEMS = 40, 60
SEARCH = {"train.learning_rate": Range(low=1e-5, high=1e-1, log=True), "train.lora.rank": (4, 8)}
DIVERGES_ABOVE = 3e-2


class ImaginedRun:
    """Finds what it made before, as a registry does. `stop_after`: progress events until Ctrl-C comes."""

    def __init__(self, home: Path, made: dict[str, Any] | None = None, stop_after: int | None = None) -> None:
        self.registry: Any = SimpleNamespace(home=home, view=lambda id_: home / "views" / id_)
        self.view = SimpleNamespace(note=self._note)
        self.made: dict[str, Any] = {} if made is None else made
        self.rows: list[StageRow] = []
        self.notes: list[str] = []
        self.trained: list[str] = []
        self._look: Callable[[Any], None] | None = None
        self._events_left = math.inf if stop_after is None else stop_after
        self._home = home

    def _note(self, words: str) -> None:
        self.notes.append(words)

    @contextlib.contextmanager
    def watched(self, look: Callable[[Any], None]) -> Iterator[None]:
        self._look = look
        try:
            yield
        finally:
            self._look = None

    def step(self, stage: str, config: Any, label: str, form: Any = None, /, **parents: Any) -> Any:
        key = digest([stage, config.model_dump(mode="json"), {r: p.id for r, p in parents.items()}])
        state = "reused" if key in self.made else "ran"
        try:
            if key not in self.made:
                self.made[key] = self._make(stage, config, label, key, parents)
        except Exception as error:
            self.rows.append(StageRow(label, stage, None, "failed", 0.0, None, str(error)))
            raise
        self.rows.append(StageRow(label, stage, key, state, 0.0))  # type: ignore[arg-type]
        return self.made[key]

    def _make(self, stage: str, config: Any, label: str, key: str, parents: Any) -> Any:
        metrics: dict[str, Any] = {}
        if stage == "prepare":
            metrics = {"splits": {"validation": {"rows": ITEMS}}}
        if stage == "train":
            metrics = self._train(config, label)
        if stage == "evaluate":
            metrics = self._evaluate(config, key, parents)
        manifest = SimpleNamespace(kind=stage, metrics=metrics, files={}, config={})
        return SimpleNamespace(id=key, manifest=manifest)

    def _train(self, config: Any, label: str) -> dict[str, Any]:
        """The loss falls to what the rate is worth; too high a rate diverges."""
        self.trained.append(label)
        at = config.validated_at(STEPS)
        worth = distance(config.learning_rate)
        losses = [[step, 1.0 + worth + 1.0 / place] for place, step in enumerate(at, start=1)]
        for (_, loss), (following, _) in itertools.pairwise(losses):
            self._progress({"done": following, "total": STEPS, "loss": 2.0, "validation_loss": loss})
        if config.learning_rate > DIVERGES_ABOVE:
            raise Diverged("the loss became nan at step 3 of 40")
        kept = {"rate": config.learning_rate, "rank": config.lora.rank}
        return {"validation_losses": losses, "validation_loss": losses[-1][1], **kept}

    def _progress(self, event: dict[str, Any]) -> None:
        if self._events_left <= 0:
            raise KeyboardInterrupt
        self._events_left -= 1
        if self._look is not None:
            self._look(event)

    def _evaluate(self, config: Any, key: str, parents: Any) -> dict[str, Any]:
        """As many right answers as the rate is worth; rank 8 is right on one more."""
        name, adapter = config.tasks[0].name, parents.get("adapter")
        right = 0
        if adapter is not None:
            trained = adapter.manifest.metrics
            right = round(ITEMS * (1 - distance(trained["rate"]) / 3)) + (trained["rank"] == 8)
            right = min(ITEMS, max(1, right))
        scores = [float(k < right) for k in range(ITEMS)]
        subject = (adapter or parents["model"]).id

        def renamed(results: Any, _rows: Any) -> None:
            results["tasks"] = {name: results["tasks"]["heldout"]}
            results["tasks"][name]["config"] = config.tasks[0].model_dump(mode="json")

        write(self._home / "views" / key, evaluation(scores, renamed, subject=subject))
        metric = {"value": right / ITEMS, "low": 0.0, "high": 1.0, "n": ITEMS, "interval": "wilson"}
        return {"tasks": {name: {"exact_match": metric}}}


def distance(rate: float) -> float:
    """Decades from the best rate, 1e-3."""
    return abs(math.log10(rate) + 3)


def searched(
    run: ImaginedRun, trials: int = 12, pruning: Pruning | None = None, search: Any = SEARCH, **changes: Any
) -> tuple[SweepOutcome, BaseException | None]:
    """The sweep on that run, and what ended it."""
    recipe = load("pico-smoke", ["train.evaluations=3"])
    config = SweepConfig(
        recipe="pico-smoke", search=search, trials=trials, startup=4, pruning=pruning, **changes
    )
    of = target(recipe, None)
    plan = Plan(config, recipe, parameters(config.values, recipe), of)
    found = SweepOutcome(recipe.name, of.asked, of.metric, plan.trials)
    settings = Settings(home=run.registry.home, wait_seconds=0)
    try:
        sweep(plan, cast(Run, run), settings, RunOutcome(), found)
    except BaseException as error:
        return found, error
    return found, None
