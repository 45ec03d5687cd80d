"""A sweep from its file to a verdict: search on validation rows, then run the best recipe whole, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.errors import not_begun
from flows.evaluation_plan import with_artifacts
from flows.execute import Result, bring_model, execute, record_run
from flows.outcome import RunOutcome
from flows.preflight.preflight import refuse_problems
from flows.recipe import Recipe, load, shipped
from flows.run.arithmetic import Arithmetic, settle
from flows.run.feed_input import at_watermark
from flows.run.interruptions import Interruptions
from flows.run.progress_view import ProgressView
from flows.run.step import Run
from flows.settings import Settings, quiet_libraries
from flows.sweep.config import SweepConfig, read_sweep
from flows.sweep.outcome import SweepOutcome
from flows.sweep.page import write_page
from flows.sweep.preflight import refuse_largest, refuse_values
from flows.sweep.space import Parameter, parameters, with_values
from flows.sweep.table import command
from flows.sweep.target import Target, target
from registry import Registry
from stages.model_shape import describe_base


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for, found to be valid. `named` and `overrides`: the recipe, as `tuneline run`
    takes it."""

    config: SweepConfig
    named: str
    overrides: tuple[str, ...]
    recipe: Recipe
    parameters: tuple[Parameter, ...]
    target: Target


@dataclass(frozen=True)
class SweepResult:
    """What came of it: `search`, the run that holds the trials; `judged`, that of the best recipe, None where
    there is none; `page`, where the sweep's own page lies."""

    found: SweepOutcome
    search: Result
    judged: Result | None
    page: Path | None
    command: str | None

    @property
    def exit_code(self) -> int:
        """The judged run's; of a search that found nothing or was not to be judged its own."""
        return (self.judged or self.search).exit_code

    @property
    def error(self) -> BaseException | None:
        """What ended it."""
        return (self.judged or self.search).error


def load_sweep(file: Path, overrides: Sequence[str] = (), trials: int | None = None) -> Sweep:
    """The sweep in a file; `overrides`: of the recipe, as `--set` has them. Raises `InvalidRecipe`."""
    config = read_sweep(file)
    if trials is not None:
        config = config.model_copy(update={"trials": trials})
    there = config.recipe in shipped()
    named = config.recipe if there else str(file.resolve().parent / config.recipe)
    recipe = load(named, overrides)
    found, of = parameters(config.values, recipe), target(recipe, config.objective)
    return Sweep(config, named, tuple(overrides), recipe, found, of)


def search_and_judge(asked: Sweep, settings: Settings, search_only: bool = False) -> SweepResult:
    """Search, and run the best recipe whole unless `search_only`: its training is there already, and its test
    rows are read for the first time.

    Raises what can be known before anything starts, as `flows.execute.execute` does; what happens later is in
    the result.
    """
    search, found, marked = _search(asked, settings)
    said = command(found, asked.named, asked.overrides)
    page = write_page(found, said)
    best = found.best
    if search.error is not None or best is None or search_only:
        return SweepResult(found, search, None, page, said)
    judged = execute(with_values(marked, best.values), settings)
    verdict = judged.outcome.verdict.decision.verdict if judged.outcome.verdict else None
    page = write_page(found, said, verdict)
    return SweepResult(found, search, judged, page, said)


def _search(asked: Sweep, settings: Settings) -> tuple[Result, SweepOutcome, Recipe]:
    """The recorded search, what it found, and the recipe as asked with its feed where the search read it."""
    name = f"{asked.recipe.name}-sweep"
    with ProgressView() as view:
        with not_begun("the sweep"):
            view.note(f"{name}: checking what exists and what is needed (home: {settings.root})")
            recipe, arithmetic = _checked(asked, settings, view)
            quiet_libraries(settings.root)
            registry = Registry.open(
                settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
            )
            recipe = with_artifacts(at_watermark(recipe, registry), registry)
            source = {"source": recipe.prepare.source}
            prepare = asked.recipe.prepare.model_copy(update=source)
            marked = asked.recipe.model_copy(update={"prepare": prepare})
            from flows.sweep.sweep import Plan, sweep  # which loads Optuna

            of = target(recipe, asked.config.objective)  # of a judge's files as the registry has them
            plan = Plan(asked.config, recipe, asked.parameters, of)
            found = SweepOutcome(recipe.name, of.asked, of.metric, plan.trials, plan.comparable)

        def work(run: Run, outcome: RunOutcome) -> None:
            sweep(plan, run, settings, outcome, found)

        with Interruptions() as interruptions:
            search = record_run(name, work, registry, view, interruptions, arithmetic)
            with interruptions.allowed():  # raises for a Ctrl-C that came while the search was reported
                registry.close()
    return search, found, marked


def _checked(asked: Sweep, settings: Settings, view: ProgressView) -> tuple[Recipe, Arithmetic | None]:
    """The recipe settled for this machine. Raises for all that can be known to go wrong, or not to fit."""
    recipe = asked.recipe
    bring_model(recipe, view)
    shape = describe_base(recipe.base.source)
    refuse_problems(recipe, settings, shape)
    refuse_values(recipe, asked.parameters, shape)
    settled, arithmetic = settle(recipe, shape, settings)
    refuse_largest(settled, asked.parameters, shape, settings)
    return settled, arithmetic
