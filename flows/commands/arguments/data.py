"""The arguments of `tuneline data`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


def add_data_commands(add: Add, group: Callable[..., Any]) -> None:
    """`data view` and `data report`."""
    actions = group("data", "prepared datasets, row by row")
    view = add("view", "pipeline.data:view", "rows as the model sees them, trained parts marked", actions)
    view.add_argument("dataset", help="an artifact of the registry, or a directory that `prepare` made")
    view.add_argument("--base", type=Path, help="of a directory: the base's, whose chat template renders")
    view.add_argument("--split", default="train", help="train (default), validation, test, fresh or rejected")
    view.add_argument("--search", metavar="TEXT", default="", help="only rows that hold this text")
    view.add_argument(
        "--from", dest="start", type=int, default=1, metavar="N", help="the first row (default 1)"
    )
    view.add_argument("--rows", type=int, default=3, help="how many (default 3)")
    report = add(
        "report",
        "pipeline.data:report",
        "lengths, languages, likely secrets, test rows like trained ones",
        actions,
    )
    report.add_argument("dataset", help="an artifact of the registry, or a directory that `prepare` made")
    report.add_argument(
        "--similar",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="from which likeness of their questions a test and a trained row are told (default 0.6)",
    )
