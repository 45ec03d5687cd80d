"""`tuneline runs`: what each does."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser

from rich.console import Console

from flows.commands.home import home
from flows.commands.reply import LOG_WIDTH, Reply, print_table
from flows.errors import Usage
from flows.formatting import duration
from flows.run.runs import PastRun, find, past_runs


def ls(arguments: argparse.Namespace) -> Reply:
    """Runs, newest first."""
    if not 1 <= arguments.limit <= 10_000:
        raise Usage(f"--limit {arguments.limit}: expected a number of rows from 1 to 10000")
    root = home().root
    runs = past_runs(root)
    shown = runs[: arguments.limit]

    def show() -> None:
        if not shown:
            print(f"no run was recorded in {root}; `tuneline run RECIPE` makes one")
            return
        columns = ("id", "recipe", "state", "started", "took", "gate", "report")
        rows = [
            (
                run.id,
                run.recipe,
                f"{run.state} at {run.stage}" if run.stage else run.state,
                f"{run.started:%Y-%m-%d %H:%M}",
                "–" if run.seconds is None else duration(run.seconds),
                run.gate,
                "yes" if run.page else "–",
            )
            for run in shown
        ]
        print_table("", columns, rows)
        if len(runs) > len(shown):
            print(f"these are the newest {len(shown)} of {len(runs)}; --limit shows more")

    return Reply([_document(run) for run in shown], show)


def show(arguments: argparse.Namespace) -> Reply:
    """One run: its report, or how far it came."""
    from pydantic import TypeAdapter, ValidationError

    from flows.report.report import RunReport, render_terminal

    run = find(home().root, arguments.run)
    document = {**_document(run), "report": run.report}

    def text() -> None:
        try:
            report = TypeAdapter(RunReport).validate_python(run.report or {})
        except ValidationError:  # under way, killed, or written by another version
            print(f"run {run.id} of {run.recipe}: {run.state}{(run.stage and f' at {run.stage}') or ''}")
            print(f"started {run.started:%Y-%m-%d %H:%M %Z}; its logs: {run.folder / 'logs'}")
            if run.state == "killed":
                print("It ended without a report; `tuneline run` with the same recipe goes on from there.")
            return
        console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
        render_terminal(report, console, run.page)

    return Reply(document, text)


def open_report(arguments: argparse.Namespace) -> Reply:
    """Open the HTML report where there is a browser to be seen; its path in any case."""
    run = find(home().root, arguments.run)
    if run.page is None:
        raise Usage(f"run {run.id} is {run.state} and has no report; `tuneline runs show {run.id}` says more")
    has_display = sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    opened = has_display and sys.stdout.isatty() and webbrowser.open(run.page.as_uri())
    return Reply({"id": run.id, "report": str(run.page), "opened": opened}, lambda: print(run.page))


def _document(run: PastRun) -> dict[str, str | float | None]:
    return {
        "id": run.id,
        "recipe": run.recipe,
        "state": run.state,
        "started": run.started.isoformat(),
        "seconds": run.seconds,
        "stage": run.stage,
        "verdict": run.verdict,
        "report": None if run.page is None else str(run.page),
    }
