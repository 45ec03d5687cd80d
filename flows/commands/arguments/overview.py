"""The arguments of `tuneline runs`, `recipes`, `doctor` and `completion`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RUN = "a run's id or its beginning (default: the newest run)"


def add_overview_commands(add: Callable[..., argparse.ArgumentParser], group: Callable[..., Any]) -> None:
    """What there is: runs, recipes, this machine; and completion for the shell."""
    runs = group("runs", "past runs and those under way")
    listing = add("ls", "pipeline.runs:ls", "list runs, newest first", runs)
    listing.add_argument("--limit", type=int, default=20, help="rows (default 20)")
    add("show", "pipeline.runs:show", "the result of one run", runs).add_argument("run", nargs="?", help=RUN)
    opening = "open a run's HTML report in a browser; where there is none, print its path"
    add("open", "pipeline.runs:open_report", opening, runs).add_argument("run", nargs="?", help=RUN)

    recipes = group("recipes", "the recipes that come with Tuneline")
    add("ls", "pipeline.recipes:ls", "list them", recipes)
    name = "the name of a shipped recipe"
    add("show", "pipeline.recipes:show", "print one", recipes).add_argument(
        "recipe", metavar="NAME", help=name
    )
    copy = add("copy", "pipeline.recipes:copy", "write one to a file, to change it", recipes)
    copy.add_argument("recipe", metavar="NAME", help=name)
    copy.add_argument("file", nargs="?", type=Path, help="a new file (default: NAME.yaml)")
    add("schema", "pipeline.recipes:schema", "print the JSON Schema of a recipe", recipes)

    doctor = add("doctor", "doctor:doctor", "check what a run depends on, and say what to fix")
    doctor.add_argument("--full", action="store_true", help="also start Prefect's server (up to minutes)")

    _add_drift(add)

    how = "print the completion of this command for a shell: source <(tuneline completion bash)"
    completion = add("completion", "arguments.completion:completion", how)
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])


def _add_drift(add: Callable[..., argparse.ArgumentParser]) -> None:
    text = "compare new inputs with training data, or a channel's answers before and since a moment"
    drift = add("drift", "pipeline.drift:drift", text)
    drift.add_argument("of", metavar="OF", help="a channel, a recipe's file, a model or a dataset")
    what = drift.add_mutually_exclusive_group(required=True)
    text = "new rows, in the order in which they came: all since the model was trained, a file a day"
    what.add_argument("--new", type=Path, nargs="+", metavar="FILE", help=text)
    text = "what came of a channel's answers: feedback, refusals, length, JSON"
    what.add_argument("--outcomes", action="store_true", help=text)
    text = "with --new: also measures of the base model's hidden states, computed on the CPU"
    drift.add_argument("--hidden-states", action="store_true", help=text)
    text = "with --outcomes: when, in UTC, as 2026-11-29 or 2026-11-29T18:00 (default: the last promotion)"
    drift.add_argument("--since", type=_moment, metavar="TIME", help=text)
    text = "risk of ever saying drift while there is none (default 0.05)"
    drift.add_argument("--alpha", type=float, default=0.05, help=text)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; expected one as 2026-11-29 or 2026-11-29T18:00"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
