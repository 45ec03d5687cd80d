"""The arguments of `tuneline feed`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


def add_feed_commands(add: Add, group: Callable[..., Any]) -> None:
    """`feed add|ls|show|watch`."""
    actions = group("feed", "rows to learn from that grow, for recipes with `source: feed:NAME`")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return add(name, f"flows.commands.feed:{name}", text, actions)

    new = command("add", "add the rows of a file or a directory; what came before does not come again")
    new.add_argument("name", help="the feed; one that is not there is made")
    new.add_argument("file", type=Path, help="rows as recipes read them (.jsonl .json .csv .parquet, .gz)")
    command("ls", "list feeds")
    shown = command("show", "a feed and its latest rows, with where each comes from")
    shown.add_argument("name")
    shown.add_argument("--limit", type=int, default=10, help="rows (default 10)")
    watched = command("watch", "have new files of a directory added whenever the feed is read")
    watched.add_argument("name", help="the feed; one that is not there is made")
    where = watched.add_mutually_exclusive_group(required=True)
    where.add_argument("directory", nargs="?", type=Path)
    where.add_argument("--off", action="store_true", help="watch no directory any more")
    for mutating in (new, watched):
        mutating.add_argument("--who", help="who answers for it (default: your login name); kept")
