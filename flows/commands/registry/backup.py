"""`tuneline backup make`, `ls`, `verify`, `tuneline restore` and `tuneline registry move`: what each does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import duration, size
from flows.run.readers import remark
from flows.settings import Settings
from registry import Registry
from registry.backup import check, snapshot
from registry.backup import make as making
from registry.backup import move as moving
from registry.backup import restore as restoring
from registry.backup.place import Place
from registry.backup.snapshot import Snapshot
from registry.db import postgresql

_CHECKED = "checked: files, records, decisions' signatures, and the logs of channels, tenants and users"
_EVERY = 5.0
"""Seconds between two lines about how far it is."""


def make(arguments: argparse.Namespace) -> Reply:
    """Write a backup."""
    began = time.monotonic()
    with open_registry() as registry:
        place = Place(arguments.place, make=True)
        done = making.make(
            registry,
            place,
            with_key=arguments.with_key,
            patience=Settings().patience(),
            progress=_told("copied"),
        )
    made, files, copied = done
    taken = time.monotonic() - began
    document = {**_document(made), "copied": {"files": files, "bytes": copied}, "seconds": round(taken, 2)}

    def text() -> None:
        print(f"backup {made.name} of {made.artifacts} artifacts, {made.blobs} files, {size(made.bytes)}")
        print(f"copied {files} files, {size(copied)}, in {duration(taken)}; the others were there")
        print(f"recovery point {made.at:%Y-%m-%d %H:%M:%S} UTC")
        if made.has_key:
            print("it holds the private signing key: whoever reads it can sign as you")
        else:
            print("the private signing key is not in it (--with-key); signatures stay valid without it")
        print("it holds the database's secrets (of webhooks, of cookies): store it as you store secrets")

    return Reply(document, text)


def ls(arguments: argparse.Namespace) -> Reply:
    """The complete backups of a place, oldest first."""
    listed = snapshot.listed(Place(arguments.place))

    def text() -> None:
        if not listed:
            print(f"no complete backup in {arguments.place}")
            return
        rows = [
            (s.name, f"{s.at:%Y-%m-%d %H:%M:%S}", str(s.artifacts), str(s.blobs), size(s.bytes))
            for s in listed
        ]
        print_table("", ("name", "recovery point (UTC)", "artifacts", "files", "size"), rows)

    return Reply([_document(made) for made in listed], text)


def verify(arguments: argparse.Namespace) -> Reply:
    """Read every byte that backups need; exit code 4 where one is damaged."""
    place = Place(arguments.place)
    named = [snapshot.find(place, arguments.snapshot)] if arguments.snapshot else None
    chosen = named or snapshot.listed(place) or [snapshot.find(place, None)]
    problems = check.backup_problems(place, chosen, _told("read"))
    document = {"snapshots": [made.name for made in chosen], "problems": problems}
    good = f"{len(chosen)} backup{'s' if len(chosen) != 1 else ''}: every byte as recorded"
    return Reply(document, lambda: print("\n".join(problems) or good), 4 if problems else 0)


def restore(arguments: argparse.Namespace) -> Reply:
    """Bring a backup into an empty registry; exit code 4 where a check afterwards finds something."""
    began, settings = time.monotonic(), Settings()
    place = Place(arguments.place)
    made = snapshot.find(place, arguments.snapshot)
    home = (arguments.to or settings.root).expanduser().absolute()
    where = (settings.database_url, settings.store_url)
    with Registry.open(home, *where, signing_key=settings.signing_key) as registry:
        done = restoring.restore(registry, place, made, _told("copied"))
    taken = time.monotonic() - began
    document = {
        **_document(made), "home": str(home), "copied": done.files, "already": done.already,
        "problems": done.problems, "seconds": round(taken, 2),
    }  # fmt: skip

    def text() -> None:
        print(f"{'already here' if done.already else 'restored'}: backup {made.name} in {home}")
        print(f"{made.artifacts} artifacts; {done.files} files copied and checked, in {duration(taken)}")
        print(f"recovery point {made.at:%Y-%m-%d %H:%M:%S} UTC: what was written later is not here")
        print("\n".join(done.problems) or _CHECKED)

    return Reply(document, text, 4 if done.problems else 0)


def move(_arguments: argparse.Namespace) -> Reply:
    """Take the home's SQLite registry to the servers that the settings name; exit code 4 as `restore`."""
    began, settings = time.monotonic(), Settings()
    if not (settings.database_url or "").startswith("postgresql"):
        raise Usage(
            "tuneline registry move needs TUNELINE_DATABASE_URL=postgresql://USER@HOST/DATABASE of an empty "
            "database, and for the files TUNELINE_STORE_URL=s3://BUCKET/PREFIX (default: they stay)"
        )
    if not (settings.root / "registry.db").is_file():
        raise Usage(f"there is no SQLite registry in {settings.root}; TUNELINE_HOME names another home")
    servers = (settings.database_url, settings.store_url)
    with Registry.open(settings.root) as old, Registry.open(settings.root, *servers) as new:
        where = postgresql.shown(new.database.engine.url)
        where += f" and {settings.store_url}" if settings.store_url else ""
        done = moving.move(old, new, where, progress=_told("copied"))
    taken = time.monotonic() - began
    document = {**asdict(done), "where": where, "seconds": round(taken, 2)}

    def text() -> None:
        print(f"{'already' if done.already else 'moved'}: {done.artifacts} artifacts are in {where}")
        print(f"{done.files} files copied and checked, in {duration(taken)}")
        print(f"{settings.root / 'registry.db'} is closed: it can be read, and refuses what writes")
        print("\n".join(done.problems) or _CHECKED)

    return Reply(document, text, 4 if done.problems else 0)


def _document(made: Snapshot) -> dict[str, object]:
    return {"name": made.name, **made.model_dump(mode="json")}


def _told(what: str) -> Callable[[int, int], None]:
    """Says on standard error, every few seconds, how far it is."""
    last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            remark(f"tuneline: {what} {done} of {of} files")

    return tell
