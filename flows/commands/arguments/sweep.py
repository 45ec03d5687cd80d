"""The arguments of `tuneline sweep`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_sweep_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """`sweep FILE [--trials N] [--set KEY.PATH=VALUE] [--search-only]`."""
    text = "try settings of a training, choose on validation rows, and run the best recipe once"
    sweep = add("sweep", "pipeline.sweep:sweep", text)
    sweep.add_argument("file", type=Path, metavar="FILE", help="a YAML file with a recipe and what to search")
    sweep.add_argument("--trials", type=_count, metavar="N", help="in place of the file's; more go on")
    text = "override a key of the recipe; repeatable"
    sweep.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=text)
    text = "choose, and run nothing: the test rows stay unread"
    sweep.add_argument("--search-only", action="store_true", help=text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to 1000")
    return int(text)
