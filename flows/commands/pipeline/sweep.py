"""`tuneline sweep`: the trials as a table, then the report of the best recipe's run."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flows.commands.home import made_home
from flows.commands.reply import LOG_WIDTH, Reply, print_table
from flows.errors import not_begun
from flows.formatting import as_typed, plain
from flows.installation import is_light, needs_all

if TYPE_CHECKING:
    from flows.execute import Result
    from flows.sweep.execute import SweepResult


def sweep(arguments: argparse.Namespace) -> Reply:
    """Search, judge, and show both, also of a sweep that was stopped."""
    if is_light():  # before a model is fetched for it
        raise needs_all("sweep needs torch")
    with not_begun("the sweep"):
        from flows.sweep.execute import load_sweep, search_and_judge

        asked = load_sweep(arguments.file, arguments.set, arguments.trials)
        settings = made_home()
    result = search_and_judge(asked, settings, arguments.search_only)
    if arguments.debug and result.error is not None:
        raise result.error
    return Reply(_document(result), lambda: _show(result), result.exit_code)


def _document(result: SweepResult) -> dict[str, Any]:
    from flows.sweep.table import document

    return {
        "sweep": document(result.found),
        "page": str(result.page) if result.page else None,
        "command": result.command,
        "search": _run(result.search),
        "run": _run(result.judged) if result.judged else None,
        "exit_code": result.exit_code,
    }


def _run(result: Result) -> dict[str, Any]:
    from flows.execute import as_json

    return {**as_json(result.report), "html": str(result.html), "exit_code": result.exit_code}


def _show(result: SweepResult) -> None:
    from flows.report.report import render_terminal
    from flows.sweep.table import head, rows, sentences

    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False, markup=False)
    if result.search.error is not None:
        render_terminal(result.search.report, console, result.search.html)
    if result.found.trials:
        print_table(f"{result.found.name}: trials", head(result.found), rows(result.found))
        for sentence in sentences(result.found):
            console.print(plain(sentence))
    for trial in result.found.trials:
        if trial.note:
            console.print(f"trial {trial.number}, {trial.ending}: {plain(trial.note)}", style="dim")
    if result.command is not None:
        console.print(as_typed(f"The best one by itself: {plain(result.command)}"), soft_wrap=True)
    if result.page is not None:
        console.print(f"Sweep: {result.page}", soft_wrap=True)
    if result.judged is not None:
        render_terminal(result.judged.report, console, result.judged.html)
