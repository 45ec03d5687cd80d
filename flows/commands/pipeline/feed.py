"""`tuneline feed`: what each does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.commands.serving.tenants import who
from flows.errors import Usage
from flows.formatting import plain
from flows.run.feed_files import AddedFiles, add_files, read_directory
from registry.feeds.feeds import Feed
from registry.feeds.forgetting import Holder
from registry.feeds.rows import FeedRow

_PAGE = 1000
_SHOWN = 60
"""Characters of a row's question in a table."""


def add(arguments: argparse.Namespace) -> Reply:
    """Rows of a file or a directory, all or none."""
    with open_registry(make=True) as registry:
        added = add_files(registry, arguments.name, arguments.file, who(arguments), arguments.tenant)
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

    def text() -> None:
        if not rows:
            print("no feed yet; `tuneline feed add NAME FILE` makes one")
            return
        print_table("", columns, rows)

    return Reply([feed.model_dump(mode="json") for feed in feeds], text)


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
            f"{feed.name}: {_rows(feed.rows)}, {feed.forgotten:,} forgotten; in a recipe "
            f"`source: feed:{feed.name}`"
        )
        if feed.directory is not None:
            print(plain(f"new files of {feed.directory} are added whenever it is read"))
        if not rows:
            print(f"no row yet; `tuneline feed add {feed.name} FILE` adds some")
            return
        columns = ("row", "added", "origin", "tenant", "question", "answer")
        print_table("", columns, [_row(row) for row in rows])

    return Reply(document, text)


def export(arguments: argparse.Namespace) -> Reply:
    """Rows as JSON lines."""
    kind, after, count = "preference" if arguments.preferences else "chat", 0, 0
    with open_registry() as registry, _new(arguments.file) as file:
        while rows := registry.feeds.rows(arguments.name, after, _PAGE):
            after = rows[-1].number
            for row in rows:
                if row.kind == kind and row.content is not None:
                    file.write(json.dumps(row.content, ensure_ascii=False) + "\n")
                    count += 1
    return Reply(
        {"feed": arguments.name, "kind": kind, "rows": count, "file": str(arguments.file)},
        lambda: print(plain(f"{_rows(count)} of feed {arguments.name} in {arguments.file}")),
    )


def forget(arguments: argparse.Namespace) -> Reply:
    """Remove rows, and say what holds them."""
    with open_registry() as registry:
        what = {"tenant": arguments.tenant, "request": arguments.request}
        forgetting = registry.forgettings.forget(who(arguments), **what)
        holders = registry.forgettings.holders()
    count = sum(map(len, forgetting.rows.values()))
    document = {
        "forgotten": forgetting.model_dump(mode="json"),
        "holders": [holder.model_dump(mode="json") for holder in holders],
    }
    feeds = f" of {', '.join(sorted(forgetting.rows))}" if count else ""

    def text() -> None:
        print(f"{_rows(count)}{feeds} forgotten; no dataset from now on has what was in them")
        _print_holders(holders)

    return Reply(document, text)


def forgotten(arguments: argparse.Namespace) -> Reply:
    """All that was forgotten, and what still holds some of it."""
    with open_registry() as registry:
        forgettings, holders = registry.forgettings.ls(), registry.forgettings.holders()
    document = {
        "forgotten": [forgetting.model_dump(mode="json") for forgetting in forgettings],
        "holders": [holder.model_dump(mode="json") for holder in holders],
    }

    def text() -> None:
        if not forgettings:
            print("nothing was forgotten yet; `tuneline feed forget --tenant T` or `--request ID` does it")
            return
        rows = [
            (
                f"{forgetting.at:%Y-%m-%d %H:%M}",
                f"tenant {forgetting.tenant}" if forgetting.tenant else f"request {forgetting.request}",
                ", ".join(f"{len(numbers):,} of {feed}" for feed, numbers in forgetting.rows.items())
                or "none",
                plain(forgetting.who),
            )
            for forgetting in forgettings
        ]
        print_table("", ("at", "what", "rows", "who"), rows)
        _print_holders(holders)

    return Reply(document, text)


def _print_holders(holders: list[Holder]) -> None:
    if not holders:
        print("no artifact holds a forgotten row, or was made from one that does")
        return
    print(f"{len(holders):,} artifacts hold a forgotten row, or were made from one that does; train again:")
    rows = [
        (
            holder.kind,
            holder.id[:12],
            ", ".join(f"{len(n):,} of {f}" for f, n in holder.rows.items()) or "–",
            ", ".join(holder.channels) or "–",
        )
        for holder in holders
    ]
    print_table("", ("kind", "id", "rows in it", "served by"), rows)


@contextmanager
def _new(path: Path) -> Iterator[IO[str]]:
    """A new file, which is there at the end or not at all."""
    if path.exists():
        raise Usage(f"{path} exists; give a new file (nothing is overwritten)")
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("w", encoding="utf-8") as file:
            yield file
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def watch(arguments: argparse.Namespace) -> Reply:
    """Watch a directory, and add what is in it now."""
    directory = None if arguments.off else arguments.directory.absolute()
    if directory is not None and not directory.is_dir():
        expected = (
            f"is a file, and a directory is expected; `tuneline feed add {arguments.name} FILE` adds one file"
            if directory.exists()
            else "does not exist; make the directory first"
        )
        raise Usage(f"{directory} {expected}: nothing was changed")
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


def _added(added: AddedFiles) -> str:
    known = f", {added.known:,} there already" if added.known else ""
    gone = f", {added.forgotten:,} left out as forgotten before" if added.forgotten else ""
    fields = ", ".join(f"{name} ({_rows(count)})" for name, count in added.unused_fields.items())
    unused = plain(f"\nnot used: {fields}") if fields else ""
    mark = f"its watermark is {added.watermark:,}"
    return f"feed {added.feed}: {_rows(added.new, 'new ')}{known}{gone}; {mark}{unused}"


def _rows(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}row{'s' if count != 1 else ''}"


def _day(feed: Feed) -> str:
    return "–" if feed.latest is None else f"{feed.latest:%Y-%m-%d %H:%M}"


def _where(feed: Feed) -> str:
    return plain(feed.directory or "–")


def _row(row: FeedRow) -> tuple[str, ...]:
    origin = (str(row.number), f"{row.at:%Y-%m-%d %H:%M}", plain(row.place or row.origin), row.tenant or "–")
    if row.content is None:
        return (*origin, f"forgotten {row.forgotten:%Y-%m-%d %H:%M}", "")
    turns = row.content["messages"]
    asked = next(turn["content"] for turn in reversed(turns) if turn["role"] == "user")
    return (*origin, _short(asked), _short(row.content.get("chosen") or turns[-1]["content"]))


def _short(text: str) -> str:
    line = plain(" ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
