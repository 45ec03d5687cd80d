"""`tuneline run` and `tuneline check`: what each does with a recipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from flows.commands.home import made_home, open_registry
from flows.commands.reply import LOG_WIDTH, Reply, print_table
from flows.errors import not_begun
from flows.formatting import duration, size
from flows.installation import is_light, needs_all
from flows.planning.clock import clock_here, said_of_memory, said_of_times
from flows.planning.estimate import StageEstimate, describe_base, estimate, machine
from flows.planning.shortfalls import shortfalls
from flows.preflight.documents import remarks as practised
from flows.preflight.preflight import problems
from flows.recipe import Recipe, load
from flows.run.arithmetic import Arithmetic, settle, with_compute_dtype
from flows.run.feed_input import rows_file
from flows.settings import Settings
from registry.errors import InvalidFeed
from stages.config.feed import feed_of
from stages.errors import StageError
from stages.model_shape import ModelShape


def run(arguments: argparse.Namespace) -> Reply:
    """Run a recipe and show the summary, also of a run that failed."""
    if is_light():  # before a model is fetched for it
        raise needs_all("run needs torch")
    with not_begun("the run"):
        from flows.execute import as_json, execute
        from flows.report.report import render_terminal

        recipe, settings = load(arguments.recipe, arguments.set), made_home()
    result = execute(recipe, settings)
    if arguments.debug and result.error is not None:
        raise result.error
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    document = {**as_json(result.report), "html": str(result.html), "exit_code": result.exit_code}
    return Reply(document, lambda: render_terminal(result.report, console, result.html), result.exit_code)


def check(arguments: argparse.Namespace) -> Reply:
    """Validate a recipe, name every problem, and estimate every stage's needs."""
    recipe, settings = load(arguments.recipe, arguments.set), Settings()
    shape, reasons = _shape_of(recipe)
    reasons += problems(recipe, settings, shape)
    with _feed_rows(recipe, bool(reasons)) as feed:
        stages, said, missing, arithmetic = _estimated(recipe, settings, shape, feed)
    remarks = [*said, *practised(recipe)]
    document = {
        "recipe": recipe.model_dump(mode="json"),
        "problems": reasons,
        "stages": [asdict(s) for s in stages],
        "remarks": remarks,
        "shortfalls": missing,
        "arithmetic": arithmetic and {**arithmetic.record(), "sentence": arithmetic.sentence},
    }

    def show() -> None:
        _print_checked(recipe.name, stages, reasons, remarks, missing)

    return Reply(document, show, 3 if missing or reasons else 0)


def _shape_of(recipe: Recipe) -> tuple[ModelShape | None, list[str]]:
    """The base's shape, or why it has none."""
    try:
        return describe_base(recipe.base.source), []
    except StageError as error:
        return None, [f"base.source: {error}"]


@contextmanager
def _feed_rows(recipe: Recipe, wrong: bool) -> Iterator[Path | None]:
    """A file with the rows of the recipe's feed; None where it reads none, or where its problems are said."""
    if wrong or feed_of(recipe.prepare.source) is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            feed = stack.enter_context(rows_file(stack.enter_context(open_registry()), recipe.prepare))
        except InvalidFeed:  # a watched directory has files, and no row of them is in the feed yet
            feed = None
        yield feed


def _estimated(
    recipe: Recipe, settings: Settings, shape: ModelShape | None, feed: Path | None
) -> tuple[list[StageEstimate], list[str], list[str], Arithmetic | None]:
    """What each stage needs, what that rests on, what this machine lacks, and its answer to `auto`."""
    if shape is None:
        return [], [], [], None
    here = machine(settings.root, settings.cache_folder, measure=False)
    clock = clock_here(shape, settings)
    try:
        settled, arithmetic = settle(recipe, shape, settings)
    except StageError:  # without torch: as on a usual machine
        settled, arithmetic = with_compute_dtype(recipe, clock.rates.auto), None
    stages = estimate(settled, shape, here, clock, feed)
    remarks = said_of_times([(s.stage, s.basis) for s in stages], clock.rates)
    remarks += said_of_memory((s.stage, s.memory_basis) for s in stages)
    if not here.imports_measured:
        remarks.append(
            f"Memory holds {size(here.imports)} of imports, as is usual: the first run measures them here."
        )
    if arithmetic is not None:
        remarks.insert(0, f"To be {arithmetic.sentence}.")
    return stages, remarks, shortfalls(settled, shape, stages, here, clock), arithmetic


def _print_checked(
    name: str, stages: list[StageEstimate], reasons: list[str], remarks: list[str], missing: list[str]
) -> None:
    state = "cannot work as it is" if reasons else "valid"
    if stages:
        rows = [
            (
                s.stage,
                size(s.memory_bytes),
                size(s.disk_bytes),
                "–" if s.seconds is None else duration(s.seconds),
                s.note,
            )
            for s in stages
        ]
        print_table(f"{name}: {state}; estimates", ("stage", "memory", "disk", "time", "note"), rows)
    else:
        print(f"{name}: {state}")
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False, markup=False)
    for line in remarks:
        console.print(line)
    for line in reasons:
        console.print(f"Problem: {line}", style="bold red", soft_wrap=True)
    for line in missing:
        console.print(f"Not enough: {line}", style="bold red", soft_wrap=True)
    if not missing and not reasons:
        console.print("This machine has what the recipe needs.")
