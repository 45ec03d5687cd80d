"""What one backup is: its manifest, written last, and what it needs of the blobs beside it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints, ValidationError
from sqlalchemy import Connection, select

from registry import content
from registry.artifacts import FileEntry, Manifest, Record, digest
from registry.backup.place import Place
from registry.db import tables as schema
from registry.db.engine import Database
from registry.db.tables import artifacts
from registry.errors import Corrupt, InvalidSetting, NotFound

KeyName = Annotated[str, StringConstraints(pattern=r"^(trusted/)?[A-Za-z0-9_-][A-Za-z0-9._-]*\.pem$")]
"""Below `keys/`, and nowhere else."""


class Snapshot(Record):
    """A registry as it was at the time `at`, the recovery point."""

    format: int = 1
    at: datetime
    tuneline: str
    schema_version: int
    database: FileEntry
    """A SQLite file of all tables, compressed by gzip, whatever system the database was of."""
    rows: dict[str, int]
    """By table."""
    rows_digest: str
    """See `registry.backup.rows.digest`."""
    first_artifact: tuple[str, str] | None
    """Id and time of the oldest artifact, by which a registry is known again wherever it is."""
    artifacts: int
    blobs: int
    bytes: int
    keys: dict[KeyName, FileEntry]
    """Name below `keys/` → file. Public halves always; `signing.pem` only where it was asked for."""

    @property
    def name(self) -> str:
        """Its time and a digest of all that it says."""
        return f"{self.at:%Y%m%dT%H%M%S.%fZ}-{digest(self.model_dump(mode='json'))[:8]}"

    @property
    def has_key(self) -> bool:
        """Whether whoever has the backup can sign for the registry."""
        return "signing.pem" in self.keys


def listed(place: Place) -> list[Snapshot]:
    """All of a place, oldest first. Raises Corrupt for a manifest that was changed."""
    return [_read(place, name) for name in place.names()]


def find(place: Place, name: str | None) -> Snapshot:
    """The backup of this name or its beginning, by default the newest; raises NotFound, Corrupt."""
    names = [known for known in place.names() if name is None or known.startswith(name)]
    if not names or (name is not None and len(names) > 1):
        what = (
            "no complete backup" if name is None else f"{len(names)} backups whose name begins with {name!r}"
        )
        raise NotFound(f"{place.where} has {what}; `tuneline backup ls {place.where}` lists them")
    return _read(place, names[-1])


def _read(place: Place, name: str) -> Snapshot:
    text = place.read(name)
    try:
        known = json.loads(text)
        if known.get("format") != 1 or known.get("schema_version", 0) > schema.VERSION:
            raise InvalidSetting(
                f"backup {name} is of format {known.get('format')} and schema version "
                f"{known.get('schema_version')}; this program knows 1 and {schema.VERSION}: use the Tuneline "
                f"version that wrote it ({known.get('tuneline')}), or a newer one"
            )
        snapshot = Snapshot.model_validate_json(text)
    except (ValueError, AttributeError, ValidationError) as error:
        raise Corrupt(f"backup {name}: its manifest cannot be read ({type(error).__name__})") from error
    if snapshot.name != name:
        raise Corrupt(f"backup {name}: its manifest was changed: its digest differs")
    return snapshot


@contextmanager
def opened(place: Place, snapshot: Snapshot, scratch: Path) -> Iterator[Database]:
    """A copy of the snapshot's database in `scratch`, upgraded to this schema. Raises Corrupt."""
    packed, path = scratch / "database.gz", scratch / "registry.db"
    for left in scratch.iterdir():
        left.unlink()
    try:
        for _ in place.blobs.fetch({snapshot.database: packed}):
            with gzip.open(packed) as stream, path.open("wb") as target:
                shutil.copyfileobj(stream, target)
    except (Corrupt, gzip.BadGzipFile, EOFError) as error:
        raise Corrupt(f"backup {snapshot.name}: its database is damaged: {error}") from error
    packed.unlink()
    database = Database.open(path)
    try:
        yield database
    finally:
        database.close()


def needed(connection: Connection) -> dict[FileEntry, str]:
    """The files of all artifacts that have content, each with words for it: whose it is."""
    gone = content.collected(connection)
    files: dict[FileEntry, str] = {}
    query = select(artifacts.c.id, artifacts.c.kind, artifacts.c.manifest).order_by(artifacts.c.sequence)
    for row in connection.execute(query.execution_options(yield_per=1000)):
        if row.id not in gone:
            entries: Mapping[str, FileEntry] = Manifest.model_validate_json(row.manifest).files
            for name, entry in entries.items():
                files.setdefault(entry, f"file {name} of {row.kind} {row.id[:12]}")
    return files
