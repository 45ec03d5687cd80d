"""One trial: trained, unless it falls behind the others, and measured on validation rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.errors import InvalidRecipe, Pruned
from flows.recipe import Recipe
from flows.run.step import Run
from flows.sweep.outcome import SweepOutcome, Trial
from flows.sweep.record import Ending, PastTrial, Record
from flows.sweep.space import with_values
from flows.sweep.study import AskedTrial, Study
from flows.sweep.target import Target
from flows.training import train, train_before
from registry import Artifact
from stages.config.train import TrainConfig
from stages.contract import ProgressEvent
from stages.errors import Diverged, StageError

LOSS = "validation_loss"


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep have in common. `pruning`: whether a training may be ended for its
    losses."""

    run: Run
    recipe: Recipe
    target: Target
    study: Study
    record: Record
    outcome: SweepOutcome
    pruning: bool

    def next(self, number: int) -> Trial:
        """The trial of this number: its values are drawn, or those of the record, and what is left is done.

        A training or a measurement that fails ends the trial, not the sweep; whoever starts the sweep again
        tries it again, unless the training diverged. Raises KeyboardInterrupt, and whatever is no failure of
        a stage.
        """
        past = self.record.trials.get(number)
        asked = self.study.ask(past.drawn if past is not None else None)
        if past is None:
            self.record.begun(number, asked.drawn, asked.values)
            return self._done(number, asked)
        behind = self._told_again(asked, past)
        if past.ending in ("pruned", "diverged"):
            return self._ended(number, asked, past.ending, past.note)
        if behind is not None and past.ending is None:  # it was killed before it could be ended
            return self._ended(number, asked, "pruned", behind)
        return self._done(number, asked)

    def _told_again(self, asked: AskedTrial, past: PastTrial) -> str | None:
        """Tell the study the losses of the record; why the training is behind, None where it is not."""
        why = None
        if self.pruning:
            for validation, loss in sorted(past.losses.items()):
                why = _why(validation, loss) if asked.validated(validation, loss) else None
        return why

    def _done(self, number: int, asked: AskedTrial) -> Trial:
        try:
            recipe = with_values(self.recipe, asked.values)
            adapter, evaluation = self._measured(number, asked, recipe)
            self.target.score(evaluation)
        except Pruned as pruned:
            return self._ended(number, asked, "pruned", str(pruned))
        except (StageError, InvalidRecipe) as error:
            self._forgive()
            ending: Ending = "diverged" if isinstance(error, Diverged) else "failed"
            return self._ended(number, asked, ending, str(error))
        return self._whole(number, asked, adapter, evaluation)

    def _measured(self, number: int, asked: AskedTrial, recipe: Recipe) -> tuple[Artifact, Artifact]:
        base, dataset = self.outcome.base, self.outcome.dataset
        assert base is not None
        assert dataset is not None
        prefix, sources = f"trial {number}: ", {"base": base, "dataset": dataset}
        start = train_before(self.run, recipe.train, prefix, **sources)
        with self.run.watched(self._look(number, asked, recipe.train)):
            adapter = train(self.run, recipe.train, start, prefix, **sources)
        label, config = f"{prefix}evaluate on validation", self.target.config(recipe)
        measured = {"model": base, "adapter": adapter, **sources}
        return adapter, self.run.step("evaluate", config, label, **measured)

    def _look(self, number: int, asked: AskedTrial, config: TrainConfig) -> Callable[[ProgressEvent], None]:
        """Hears of a training's progress, keeps its validation losses, and ends it where it is behind."""
        known = self.record.trials[number].losses

        def look(event: ProgressEvent) -> None:
            told: Mapping[str, Any] = event
            loss, total = told.get(LOSS), told.get("total")
            if not isinstance(loss, float) or not total:
                return
            # an event tells the last loss that was taken before its own step
            validation = sum(step < told["done"] for step in config.validated_at(total))
            if validation < 1 or validation in known:
                return
            self.record.validated(number, validation, loss)
            if self.pruning and asked.validated(validation, loss):
                raise Pruned(_why(validation, loss))

        return look

    def _whole(self, number: int, asked: AskedTrial, adapter: Artifact, evaluation: Artifact) -> Trial:
        metrics, score = adapter.manifest.metrics, self.target.score(evaluation)
        pairs = metrics.get("validation_losses", ())
        losses = {validation: float(loss) for validation, (_, loss) in enumerate(pairs, start=1)}
        if self.pruning:
            for validation, loss in losses.items():
                asked.validated(validation, loss)
        self.study.whole(asked, score["value"])
        if self.record.trials[number].ending != "whole":
            made = {"adapter": adapter.id, "evaluation": evaluation.id}
            self.record.ended(number, "whole", score=score["value"], **made)
        kept = metrics.get(LOSS)
        return Trial(number, asked.values, "whole", losses, kept, score, adapter, evaluation)

    def _ended(self, number: int, asked: AskedTrial, ending: Ending, note: str) -> Trial:
        past = self.record.trials[number]
        if ending == "failed":
            self.study.failed(asked)
        else:
            self.study.poor(asked)
        if (past.ending, past.note) != (ending, note):
            self.record.ended(number, ending, note)
        return Trial(number, asked.values, ending, dict(past.losses), note=note)

    def _forgive(self) -> None:
        """The step that failed is none of the run's failures: the sweep goes on without the trial."""
        if self.run.rows and self.run.rows[-1].state == "failed":
            row = self.run.rows[-1]
            self.run.rows[-1] = replace(row, state="skipped", note=f"the trial failed: {row.note}")


def _why(validation: int, loss: float) -> str:
    if not math.isfinite(loss):
        return f"validation loss {validation} is {loss}"
    return (
        f"validation loss {validation} is {loss:.4g}; the best one so far is worse than the median of the "
        "trials that were trained whole"
    )
