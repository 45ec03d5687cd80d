"""`tuneline feed`: what each does."""

from __future__ import annotations

import argparse
from typing import Any

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.commands.tenants import who
from flows.errors import Usage
from flows.formatting import plain
from flows.run.feed_files import add_files, read_directory
from registry.feeds.feeds import Added, Feed
from registry.feeds.rows import FeedRow

_SHOWN = 60
"""Characters of a row's question in a table."""


def add(arguments: argparse.Namespace) -> Reply:
    """Rows of a file or a directory, all or none."""
    with open_registry(make=True) as registry:
        added = add_files(registry, arguments.name, arguments.file, who(arguments))
    return Reply(added.model_dump(mode="json"), lambda: print(_added(added)))


def ls(arguments: argparse.Namespace) -> Reply:
    """All feeds."""
    with open_registry() as registry:
        feeds = registry.feeds.ls()
    rows = [
        (
            feed.name,
            f"{feed.rows:,}",
            f"{feed.preferences:,}",
            f"{feed.forgotten:,}",
            _day(feed),
            _where(feed),
        )
        for feed in feeds
    ]
    columns = ("feed", "watermark", "preferences", "forgotten", "latest row", "directory")
    return Reply([feed.model_dump(mode="json") for feed in feeds], lambda: print_table("", columns, rows))


def show(arguments: argparse.Namespace) -> Reply:
    """One feed and its latest rows."""
    if arguments.limit < 1:
        raise Usage(f"--limit {arguments.limit}: expected at least 1")
    with open_registry() as registry:
        feed = registry.feeds.get(arguments.name)
        rows = registry.feeds.rows(feed.name, max(0, feed.rows - arguments.limit), arguments.limit)
    document = {**feed.model_dump(mode="json"), "latest_rows": [row.model_dump(mode="json") for row in rows]}

    def text() -> None:
        print(
            f"{feed.name}: {feed.rows:,} rows, {feed.forgotten:,} forgotten; in a recipe "
            f"`source: feed:{feed.name}`"
        )
        if feed.directory is not None:
            print(plain(f"new files of {feed.directory} are added whenever it is read"))
        columns = ("row", "added", "origin", "tenant", "question", "answer")
        print_table("", columns, [_row(row) for row in rows])

    return Reply(document, text)


def watch(arguments: argparse.Namespace) -> Reply:
    """Watch a directory, and add what is in it now."""
    directory = None if arguments.off else arguments.directory.absolute()
    if directory is not None and not directory.is_dir():
        raise Usage(f"{directory} is not a directory; make it first: nothing was changed")
    with open_registry(make=not arguments.off) as registry:
        if arguments.off:
            registry.feeds.get(arguments.name)
        registry.feeds.watch(arguments.name, directory, who(arguments))
        added = read_directory(registry, arguments.name)
        feed = registry.feeds.get(arguments.name)
    lines = [
        f"feed {feed.name} watches no directory"
        if directory is None
        else f"feed {feed.name} watches {directory}"
    ]
    lines += [] if added is None else [_added(added)]
    document = {"feed": feed.model_dump(mode="json"), "added": added and added.model_dump(mode="json")}
    return Reply(document, lambda: print(plain("\n".join(lines))))


def _added(added: Added) -> str:
    known = f", {added.known:,} were there already" if added.known else ""
    return f"feed {added.feed}: {added.new:,} new rows{known}; its watermark is {added.watermark:,}"


def _day(feed: Feed) -> str:
    return "–" if feed.latest is None else f"{feed.latest:%Y-%m-%d %H:%M}"


def _where(feed: Feed) -> str:
    return plain(feed.directory or "–")


def _row(row: FeedRow) -> tuple[str, ...]:
    came = (str(row.number), f"{row.at:%Y-%m-%d %H:%M}", plain(row.place or row.origin), row.tenant or "–")
    if row.content is None:
        return (*came, f"forgotten {row.forgotten:%Y-%m-%d %H:%M}", "")
    return (*came, *(_short(text) for text in _question_and_answer(row.content)))


def _question_and_answer(content: dict[str, Any]) -> tuple[str, str]:
    asked = next(m["content"] for m in reversed(content["messages"]) if m["role"] == "user")
    return asked, content.get("chosen") or content["messages"][-1]["content"]


def _short(text: str) -> str:
    line = plain(" ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
