"""The trials of a sweep, in the order in which they happen. The test split is not read here.

Whatever was done before is found in the registry: a sweep that is started again draws the same values and
goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.held_out import previous_dataset
from flows.outcome import RunOutcome
from flows.recipe import Recipe
from flows.run.fingerprint import pinned
from flows.run.step import Run
from flows.settings import Settings
from flows.sweep.config import SweepConfig
from flows.sweep.lead import lead
from flows.sweep.outcome import SweepOutcome, Trial
from flows.sweep.record import Record, describe, held
from flows.sweep.space import OF_THE_LOSS, Parameter, combinations
from flows.sweep.study import Study
from flows.sweep.target import Target
from flows.sweep.trial import Trials
from registry.artifacts import digest
from stages.errors import InvalidInput, StageError

FOLDER = "sweeps"
MOST_FAILURES = 3
"""Trials that fail one after the other before the sweep gives up: then it is hardly the values."""


@dataclass(frozen=True)
class Plan:
    """A sweep that can begin. `recipe`: settled for this machine, its feed at a watermark."""

    config: SweepConfig
    recipe: Recipe
    parameters: tuple[Parameter, ...]
    target: Target

    @property
    def comparable(self) -> bool:
        """Whether the validation losses of two trials can be compared."""
        return not any(_is_of(parameter.key, OF_THE_LOSS) for parameter in self.parameters)

    @property
    def trials(self) -> int:
        """How many trials there are: each setting is tried once."""
        return min(self.config.trials, combinations(self.parameters) or self.config.trials)

    def about(self, base: str, dataset: str) -> dict[str, Any]:
        """All that decides what a trial of this number is, so that a sweep of as much goes on from it."""
        config = self.config.model_dump(mode="json", exclude={"recipe", "trials", "objective"})
        return {
            "base": base,
            "dataset": dataset,
            "train": self.recipe.train.model_dump(mode="json"),
            "evaluate": pinned(self.target.config(self.recipe)),
            "metric": self.target.metric,
            **config,
        }


def sweep(plan: Plan, run: Run, settings: Settings, report: RunOutcome, found: SweepOutcome) -> None:
    """Do what is left of the sweep; `found` fills as it goes, and `report` has what a run's report shows.

    Raises `InvalidInput` where there is nothing to choose by, `StageError` where trials fail one after the
    other, and `Usage` where another process works on the sweep for too long.
    """
    recipe, target = plan.recipe, plan.target
    base = report.base = found.base = run.step("resolve", recipe.base, "resolve base")
    previous = previous_dataset(run.registry, recipe)
    data = run.step("prepare", recipe.prepare, "prepare data", base=base, **previous)
    report.dataset = found.dataset = data
    if not data.manifest.metrics["splits"]["validation"]["rows"]:
        raise InvalidInput(
            "the dataset's validation split is empty, so there is nothing to choose by; set "
            "prepare.split.validation higher"
        )
    asked = {"model": base, "dataset": data}
    untuned = run.step("evaluate", target.config(recipe), "evaluate base on validation", **asked)
    found.untuned, found.untuned_evaluation = target.score(untuned), untuned

    about = plan.about(base.id, data.id)
    folder = found.folder = run.registry.home / FOLDER / f"{recipe.name}-{digest(about)[:12]}"
    with held(folder, settings.wait_seconds, run.view.note):
        describe(folder, {"recipe": recipe.name, **about})
        _all_trials(plan, run, folder, found)
    if (best := found.best) is not None:
        report.adapter = best.adapter
        found.lead = lead(run.registry, found, target)


def _all_trials(plan: Plan, run: Run, folder: Path, found: SweepOutcome) -> None:
    config, pruning = plan.config, plan.config.pruning if plan.comparable else None
    study = Study(plan.parameters, config.seed, config.startup, pruning)
    trials = Trials(run, plan.recipe, plan.target, study, Record(folder), found, pruning is not None)
    if plan.trials < config.trials:
        run.view.note(f"there are {plan.trials} settings to try; each is tried once")
    for number in range(1, plan.trials + 1):
        trial = trials.next(number)
        found.trials.append(trial)
        run.view.note(_progress(trial, found))
        last = found.trials[-MOST_FAILURES:]
        if len(last) == MOST_FAILURES and all(one.ending == "failed" for one in last):
            raise StageError(f"{MOST_FAILURES} trials failed one after the other; the last one: {trial.note}")
    if found.best is None:
        raise StageError(f"none of {plan.trials} trials could be measured; the last one: {trial.note}")


def _progress(trial: Trial, found: SweepOutcome) -> str:
    of = f"trial {trial.number} of {found.trials_asked}: {trial.ending}"
    best = found.best
    if trial.score is not None:
        of += f", {found.metric} {trial.score['value']:.4g}"
    if best is not None and best.score is not None:
        of += f"; the best so far is trial {best.number} with {best.score['value']:.4g}"
    return of


def _is_of(key: str, keys: tuple[str, ...]) -> bool:
    """Whether it is one of them, or a section that holds one."""
    return any(one == key or one.startswith(f"{key}.") for one in keys)
