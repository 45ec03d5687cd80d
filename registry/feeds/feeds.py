"""Feeds: rows are added at the end, and a reader says up to which one it reads (the watermark).

A row that was forgotten keeps its number and its origin, and loses its content. So a watermark together with
how many rows up to it are forgotten says exactly what was read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from registry.artifacts import Record
from registry.channels.channels import check_text
from registry.db.engine import Database, now
from registry.db.feed_tables import feed_rows, feeds
from registry.errors import InvalidFeed, NotFound
from registry.feeds.rows import FeedRow, NewRow

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_AT_ONCE = 500
"""Rows of one statement."""


class Watermark(Record):
    """What a reader of the feed reads: the rows up to `number`, without the `forgotten` ones among them."""

    feed: str
    number: int
    forgotten: int

    def __str__(self) -> str:
        return f"{self.feed}@{self.number}" + (f"-{self.forgotten}" if self.forgotten else "")


class Feed(Record):
    """A feed; `rows` counts all that came, `forgotten` those that were forgotten, by kind `preferences`."""

    name: str
    created: datetime
    who: str
    directory: str | None
    rows: int
    forgotten: int
    preferences: int
    latest: datetime | None


class Added(Record):
    """What adding came to: rows that are new, that were there already, and that are not to come back."""

    feed: str
    new: int
    known: int
    forgotten: int
    watermark: int


class Feeds:
    """The feeds of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, rows: Sequence[NewRow], who: str) -> Added:
        """Add rows at the end, all or none; a feed that is not there is made.

        A row whose key the feed knows is left out, and one that any feed was to forget: it does not come
        back.
        Raises InvalidFeed for a bad name, InvalidArtifact for a bad name of `who`.
        """
        check_name(name)
        check_text("the name of whoever adds the rows", who)
        with self._database.write() as connection:
            return append(connection, name, rows, who)

    def watch(self, name: str, directory: Path | None, who: str) -> None:
        """Have files of `directory` (None: of none any more) added before the feed is read."""
        check_name(name)
        check_text("the name of whoever watches the directory", who)
        with self._database.write() as connection:
            _make(connection, name, who)
            where = None if directory is None else str(directory)
            connection.execute(update(feeds).where(feeds.c.name == name), {"directory": where})

    def ls(self) -> list[Feed]:
        """All by name."""
        with self._database.read() as connection:
            return [
                _feed(connection, row) for row in connection.execute(select(feeds).order_by(feeds.c.name))
            ]

    def get(self, name: str) -> Feed:
        """The feed of this name. Raises NotFound, which names those that there are."""
        with self._database.read() as connection:
            return _feed(connection, existing(connection, name))

    def watermark(self, name: str, number: int | None = None) -> Watermark:
        """Where a reader is that reads up to row `number` (default: the last one).

        Raises NotFound, InvalidFeed for a number that the feed has not reached, or an empty feed.
        """
        with self._database.read() as connection:
            existing(connection, name)
            last = _last(connection, name)
            if not last:
                raise InvalidFeed(f"feed {name} has no rows yet; `tuneline feed add {name} FILE` adds some")
            if number is not None and not 1 <= number <= last:
                raise InvalidFeed(f"feed {name} has no row {number}: its watermark is {last}")
            reached = last if number is None else number
            gone = (feed_rows.c.feed == name) & feed_rows.c.forgotten.is_not(None)
            query = select(func.count()).where(gone, feed_rows.c.number <= reached)
            return Watermark(feed=name, number=reached, forgotten=connection.execute(query).scalar_one())

    def rows(self, name: str, after: int = 0, limit: int = 100) -> list[FeedRow]:
        """Up to `limit` rows beyond number `after`, in their order. Raises NotFound."""
        with self._database.read() as connection:
            existing(connection, name)
            query = select(feed_rows).where(feed_rows.c.feed == name, feed_rows.c.number > after)
            return [
                feed_row(row) for row in connection.execute(query.order_by(feed_rows.c.number).limit(limit))
            ]

    def contents(self, mark: Watermark) -> Iterator[tuple[int, str | None]]:
        """Number and JSON of each chat up to the watermark, in order; None of what is no chat or forgotten.

        All of one moment. Raises InvalidFeed where rows were forgotten since the watermark was taken.
        """
        mine = (feed_rows.c.feed == mark.feed) & (feed_rows.c.number <= mark.number)
        columns = (feed_rows.c.number, feed_rows.c.kind, feed_rows.c.content)
        query = select(*columns).where(mine).order_by(feed_rows.c.number)
        gone = 0
        with self._database.read() as connection:
            for part in connection.execute(query.execution_options(yield_per=1000)).partitions():
                for row in part:
                    gone += row.content is None
                    yield row.number, row.content if row.kind == "chat" else None
        if gone != mark.forgotten:
            raise InvalidFeed(f"rows of feed {mark.feed} were forgotten a moment ago; run it again")


def append(connection: Connection, name: str, rows: Sequence[NewRow], who: str) -> Added:
    """`Feeds.add`, within a writing transaction."""
    _make(connection, name, who)
    names = list(connection.execute(select(feeds.c.name)).scalars())
    before = last = _last(connection, name)
    at, forgotten = now(), 0
    for start in range(0, len(rows), _AT_ONCE):
        part: dict[str, NewRow] = {}
        for row in rows[start : start + _AT_ONCE]:
            part.setdefault(row.key, row)
        held, gone = _there(connection, name, names, list(part))
        forgotten += sum(row.key in gone for row in rows[start : start + _AT_ONCE])
        fresh = [row for key, row in part.items() if key not in held | gone]
        values = [
            {**vars(row), "feed": name, "number": last + place, "who": who, "at": at}
            for place, row in enumerate(fresh, 1)
        ]
        if values:
            connection.execute(insert(feed_rows), values)
            last += len(values)
    new = last - before
    return Added(feed=name, new=new, known=len(rows) - new - forgotten, forgotten=forgotten, watermark=last)


def existing(connection: Connection, name: str) -> Row[Any]:
    """The row of the feed. Raises NotFound."""
    row = connection.execute(select(feeds).where(feeds.c.name == name)).one_or_none()
    if row is None:
        names = connection.execute(select(feeds.c.name).order_by(feeds.c.name).limit(8)).scalars().all()
        there = f"there are {', '.join(names)}" if names else "there is none yet"
        raise NotFound(f"no feed {name[:80]!r}; {there}; `tuneline feed add NAME FILE` makes one")
    return row


def feed_row(row: Row[Any]) -> FeedRow:
    """A row of `feed_rows` in its own type."""
    return FeedRow.of_row(row, content=None if row.content is None else json.loads(row.content))


def check_name(name: str) -> None:
    """Raise InvalidFeed for what cannot be a feed's name."""
    if not NAME.fullmatch(name):
        raise InvalidFeed(
            f"{name[:80]!r} is not a valid name of a feed; expected up to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )


def _make(connection: Connection, name: str, who: str) -> None:
    if connection.execute(select(feeds.c.name).where(feeds.c.name == name)).first() is None:
        connection.execute(insert(feeds), {"name": name, "created": now(), "who": who})


def _there(connection: Connection, name: str, names: list[str], keys: list[str]) -> tuple[set[str], set[str]]:
    """Of these keys those of rows that the feed holds, and those of rows that any feed was to forget."""
    # Feeds are named one by one, since the index begins with the feed.
    known = feed_rows.c.feed.in_(names) & feed_rows.c.key.in_(keys)
    wanted = (feed_rows.c.feed == name) | feed_rows.c.forgotten.is_not(None)
    held: set[str] = set()
    gone: set[str] = set()
    for key, forgotten in connection.execute(
        select(feed_rows.c.key, feed_rows.c.forgotten).where(known, wanted)
    ):
        (held if forgotten is None else gone).add(key)
    return held, gone - held


def _last(connection: Connection, name: str) -> int:
    query = select(func.max(feed_rows.c.number)).where(feed_rows.c.feed == name)
    return int(connection.execute(query).scalar_one() or 0)


def _feed(connection: Connection, row: Row[Any]) -> Feed:
    counted = select(
        func.count(),
        func.count(feed_rows.c.forgotten),
        func.count(feed_rows.c.content).filter(feed_rows.c.kind == "preference"),
        func.max(feed_rows.c.at),
    ).where(feed_rows.c.feed == row.name)
    rows, forgotten, preferences, latest = connection.execute(counted).one()
    figures = {"rows": rows, "forgotten": forgotten, "preferences": preferences, "latest": latest}
    return Feed.model_validate({**row._asdict(), **figures})
