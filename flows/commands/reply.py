"""What a command returns, and how tables are printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

LOG_WIDTH = 110
"""Columns of a summary that goes to a file; rich would take 80."""


@dataclass(frozen=True)
class Reply:
    """`document`: for --json, None where the command has printed it already; `show`: prints it for people."""

    document: Any
    show: Callable[[], None]
    exit_code: int = 0


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table that does not cut ids and paths."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in {"id", "url"})
    for row in rows:
        table.add_row(*map(str, row))
    width = None if sys.stdout.isatty() else LOG_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)
