"""The arguments of `tuneline feed`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


def add_feed_commands(add: Add, group: Callable[..., Any]) -> None:
    """`feed add|ls|show|export|watch|forget|forgotten`."""
    actions = group("feed", "rows to learn from that grow, for recipes with `source: feed:NAME`")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return add(name, f"pipeline.feed:{name}", text, actions)

    new = command("add", "add the rows of a file or a directory; what came before does not come again")
    new.add_argument("name", help="the feed; one that is not there is made")
    new.add_argument("file", type=Path, help="rows as recipes read them (.jsonl .json .csv .parquet, .gz)")
    new.add_argument("--tenant", help="whose rows they are: `forget --tenant` takes them out again")
    command("ls", "list feeds")
    shown = command("show", "a feed and its latest rows, with where each comes from")
    shown.add_argument("name")
    shown.add_argument("--limit", type=int, default=10, help="rows (default 10)")
    watched = command("watch", "have new files of a directory added whenever the feed is read")
    watched.add_argument("name", help="the feed; one that is not there is made")
    where = watched.add_mutually_exclusive_group(required=True)
    where.add_argument("directory", nargs="?", type=Path)
    where.add_argument("--off", action="store_true", help="watch no directory any more")
    written = command("export", "write rows to a file of JSON lines")
    written.add_argument("name")
    written.add_argument("file", type=Path, help="a new file")
    written.add_argument("--preferences", action="store_true", help="pairs of a corrected and a given answer")
    end = command("forget", "remove rows of a tenant or a request for good, and say what was made from them")
    whose = end.add_mutually_exclusive_group(required=True)
    whose.add_argument("--tenant")
    whose.add_argument("--request", metavar="ID", help="as in the answer's header x-request-id")
    command("forgotten", "what was forgotten, and which artifacts still hold some of it")
    for mutating in (new, watched, end):
        mutating.add_argument("--who", help="who answers for it (default: your login name); kept")
