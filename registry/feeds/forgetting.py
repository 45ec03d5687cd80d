"""Forgetting: rows lose their content for good, and what was made from them is known.

What holds a forgotten row is looked up whenever it is asked for, in the datasets' own lists of rows: so also
a dataset that was being made while the row was forgotten is among it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from registry import catalog, content
from registry.artifacts import Record
from registry.catalog import Artifact
from registry.channels.channels import check_text
from registry.db.engine import Database, now
from registry.db.feed_tables import feed_rows, feedback, forgettings, receipts
from registry.db.serving_tables import tenants
from registry.db.tables import artifacts, channels, edges
from registry.errors import InvalidFeed, NotFound
from registry.store.store import Store

LIST = "feed_rows.json"
"""In a dataset of a feed: split → numbers of its rows."""
SET_ASIDE = "set_aside"
"""Beside its splits: numbers of rows that stay held out, and that are not in this dataset."""


class Forgetting(Record):
    """What was asked to be forgotten, and which rows that were: feed → numbers."""

    tenant: str | None
    request: str | None
    rows: dict[str, list[int]]
    who: str
    at: datetime


class Holder(Record):
    """An artifact that holds a forgotten row, or was made from one that does; `channels` serve it now."""

    id: str
    kind: str
    stage: str
    rows: dict[str, list[int]]
    """Of a dataset: which forgotten rows it holds."""
    channels: tuple[str, ...]


class Forgettings:
    """What a registry was asked to forget."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database, self._store = database, store

    def forget(self, who: str, *, tenant: str | None = None, request: str | None = None) -> Forgetting:
        """Remove all that came from a tenant, or from one request: rows of all feeds, receipts, feedback.

        Raises InvalidFeed unless one of both is given, NotFound where nothing was ever recorded of it.
        """
        check_text("the name of whoever asks", who)
        if (tenant is None) == (request is None):
            raise InvalidFeed("say what is to be forgotten: a tenant, or a request")
        with self._database.write() as connection:
            if not _ever_known(connection, tenant, request):
                raise NotFound(
                    f"nothing was ever recorded of {f'tenant {tenant}' if tenant else f'request {request}'}: "
                    "check the name; `tuneline feed show NAME` shows tenant and request of each row"
                )
            numbers = _erase(connection, _of(feed_rows, tenant, request))
            for table in (receipts, feedback):
                connection.execute(delete(table).where(_of(table, tenant, request)))
            event = {"tenant": tenant, "request": request, "rows": json.dumps(numbers), "who": who}
            connection.execute(insert(forgettings), {**event, "at": (at := now())})
        self._database.scrub()
        return Forgetting.model_validate({**event, "rows": numbers, "at": at})

    def expire(self) -> int:
        """Remove rows and receipts that were to be kept until now; returns how many rows that were."""
        with self._database.write() as connection:
            over = now()
            connection.execute(delete(receipts).where(receipts.c.expires <= over))
            numbers = _erase(connection, feed_rows.c.expires <= over)
        return sum(map(len, numbers.values()))

    def ls(self) -> list[Forgetting]:
        """All, oldest first."""
        with self._database.read() as connection:
            return [
                Forgetting.of_row(row, rows=json.loads(row.rows))
                for row in connection.execute(select(forgettings).order_by(forgettings.c.sequence))
            ]

    def holders(self) -> list[Holder]:
        """Every artifact that holds what was to be forgotten, oldest first: to be made again without it."""
        gone: dict[str, set[int]] = {}
        for forgetting in self.ls():
            for feed, numbers in forgetting.rows.items():
                gone.setdefault(feed, set()).update(numbers)
        with self._database.read() as connection:
            query = select(artifacts.c.id).where(artifacts.c.kind == "dataset")
            datasets = [catalog.existing(connection, id_) for id_ in connection.execute(query).scalars()]
            lost = content.collected(connection, [dataset.id for dataset in datasets])
        rows = {dataset.id: self._held(dataset, gone, dataset.id in lost) for dataset in datasets}
        with self._database.read() as connection:
            return _made_from(connection, {id_: held for id_, held in rows.items() if held})

    def _held(self, dataset: Artifact, gone: Mapping[str, set[int]], lost: bool) -> dict[str, list[int]]:
        """Feed → forgotten rows in the dataset; all that it may hold, where its files are gone."""
        source = str(dataset.manifest.config.get("source", ""))
        feed, _, mark = source.removeprefix("feed:").partition("@")
        if not source.startswith("feed:") or feed not in gone:
            return {}
        reached = int(mark.partition("-")[0] or 0)
        possible = {number for number in gone[feed] if number <= reached}
        entry = dataset.manifest.files.get(LIST)
        if possible and entry is not None and not lost:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / LIST
                for _ in self._store.blobs.fetch({entry: path}):
                    splits = json.loads(path.read_bytes())
            splits.pop(SET_ASIDE, None)
            possible &= {
                number for numbers in splits.values() if isinstance(numbers, list) for number in numbers
            }
        return {feed: sorted(possible)} if possible else {}


def _of(table: Any, tenant: str | None, request: str | None) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = (
        table.c.request == request if tenant is None else table.c.tenant == tenant
    )
    return condition


def _ever_known(connection: Connection, tenant: str | None, request: str | None) -> bool:
    queries = [select(t.c.request).where(_of(t, tenant, request)) for t in (feed_rows, receipts, feedback)]
    if tenant is not None:
        queries.append(select(tenants.c.name).where(tenants.c.name == tenant))
    return any(connection.execute(query.limit(1)).first() is not None for query in queries)


def _erase(connection: Connection, which: ColumnElement[bool]) -> dict[str, list[int]]:
    """Remove the content of these rows; returns feed → numbers of those that had one."""
    which &= feed_rows.c.content.is_not(None)
    numbers: dict[str, list[int]] = {}
    query = select(feed_rows.c.feed, feed_rows.c.number).where(which).order_by(feed_rows.c.sequence)
    for feed, number in connection.execute(query):
        numbers.setdefault(feed, []).append(number)
    connection.execute(update(feed_rows).where(which), {"content": None, "forgotten": now()})
    return numbers


def _made_from(connection: Connection, datasets: Mapping[str, dict[str, list[int]]]) -> list[Holder]:
    """The datasets and all that came of them. A dataset that only goes on from another has not its rows."""
    children: dict[str, list[str]] = {}
    for row in connection.execute(select(edges).where(edges.c.relation != "grown_from")):
        children.setdefault(row.parent, []).append(row.child)
    calibrated = artifacts.c.quant_calibration_dataset
    for child, dataset in connection.execute(
        select(artifacts.c.id, calibrated).where(calibrated.is_not(None))
    ):
        children.setdefault(dataset, []).append(child)
    held, waiting = set(datasets), list(datasets)
    for parent in waiting:
        for child in children.get(parent, ()):
            if child not in held:
                held.add(child)
                waiting.append(child)
    serving: dict[str, list[str]] = {}
    for row in connection.execute(select(channels).order_by(channels.c.name)):
        serving.setdefault(row.artifact_id, []).append(row.name)
    columns = select(artifacts.c.id, artifacts.c.kind, artifacts.c.stage).order_by(artifacts.c.sequence)
    return [
        Holder(**row._asdict(), rows=datasets.get(row.id, {}), channels=tuple(serving.get(row.id, ())))
        for row in connection.execute(columns)
        if row.id in held
    ]
