"""Write a backup: the database as it is at one moment, then the files that it names, then the manifest.

While it runs a lease keeps all content from being collected. It is taken before the snapshot, so that what
the snapshot names stays until it is copied. Whatever ends it before the manifest leaves no backup, and what
was copied until then is not copied again.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import select, update

from registry.artifacts import FileEntry
from registry.artifacts import digest as digest_of
from registry.backup import rows, snapshot
from registry.backup.place import Place
from registry.backup.snapshot import Snapshot
from registry.backup.transfer import transfer
from registry.channels.signing import fingerprint, public_key
from registry.db import tables as schema
from registry.db.engine import Database
from registry.db.tables import artifacts, leases
from registry.errors import InvalidSetting
from registry.leases import EVERYTHING, NO_WAIT, Patience
from registry.registry import Registry
from registry.store.files import found_file, remove_tree, wrap_os_errors
from registry.store.local import Failpoint

KEY = digest_of(["backup"])
"""What the lease is on: one backup of a registry at a time."""
FAILPOINTS = (
    "backup leased",
    "backup snapshot taken",
    "backup copied",
    "backup files copied",
    "backup written",
)
"""In order; "backup copied" once for each file."""
Progress = Callable[[int, int], None]
"""Hears of files done, and of all that are to be copied or looked at."""


def make(
    registry: Registry,
    place: Place,
    *,
    with_key: bool = False,
    patience: Patience = NO_WAIT,
    progress: Progress = lambda done, of: None,
    failpoint: Failpoint = lambda at: None,
) -> tuple[Snapshot, int, int]:
    """Returns the backup, and how many files and bytes were not there from an earlier one.

    A second backup of the registry waits for the first, and raises Held when patience ends. Raises
    InvalidSetting for a place with backups of another registry, Corrupt for an artifact that is damaged,
    StoreFull, StoreFailed.
    """
    scratch = registry.home / "backup.part"
    token = registry.leases.wait_for(KEY, "backup", [EVERYTHING], patience)
    try:
        with registry.leases.kept_alive(KEY, token), wrap_os_errors(f"backup to {place.where}"):
            failpoint("backup leased")
            remove_tree(scratch)
            scratch.mkdir(mode=0o700)
            return _written(registry, place, scratch, with_key, progress, failpoint)
    finally:
        remove_tree(scratch)
        registry.leases.release(KEY, token)


def _written(
    registry: Registry, place: Place, scratch: Path, with_key: bool, progress: Progress, failpoint: Failpoint
) -> tuple[Snapshot, int, int]:
    path, at = scratch / "registry.db", datetime.now(UTC)
    copy = Database.open(path)
    try:
        with registry.database.read() as source, copy.write() as target:
            counts = rows.copy(source, target)
            target.execute(update(leases).where(leases.c.key == KEY), {"host": None})
        with copy.read() as connection:
            rows_digest, files = rows.digest(connection), snapshot.needed(connection)
            first = connection.execute(
                select(artifacts.c.id, artifacts.c.created).order_by(artifacts.c.sequence).limit(1)
            ).first()
    finally:
        copy.close()  # which brings its write-ahead log into the file
    failpoint("backup snapshot taken")
    oldest = None if first is None else (first.id, first.created)
    _refuse_another_registry(place, oldest)
    done = count = size = 0
    for entry in transfer(files, registry.store.blobs, place.blobs, scratch, files.__getitem__):
        count, size = count + 1, size + entry.size
        progress(done := done + 1, len(files))
        failpoint("backup copied")
    database, keys = place.put(found_file(_packed(path))), _keys(registry, place, scratch, with_key)
    failpoint("backup files copied")
    made = Snapshot(
        at=at, tuneline=version("tuneline"), schema_version=schema.VERSION, database=database, rows=counts,
        rows_digest=rows_digest, first_artifact=oldest, artifacts=counts["artifacts"], blobs=len(files),
        bytes=sum(entry.size for entry in files), keys=keys,
    )  # fmt: skip
    place.write(made.name, made.model_dump_json(indent=1).encode())
    failpoint("backup written")
    return made, count, size


def _refuse_another_registry(place: Place, oldest: tuple[str, str] | None) -> None:
    for earlier in snapshot.listed(place):
        if None not in (oldest, earlier.first_artifact) and oldest != earlier.first_artifact:
            raise InvalidSetting(
                f"{place.where} holds backups of another registry (their oldest artifact differs); use a "
                "separate place for each registry"
            )


def _packed(path: Path) -> Path:
    packed = path.with_suffix(".gz")
    with path.open("rb") as stream, gzip.GzipFile(packed, "wb", compresslevel=1, mtime=0) as target:
        shutil.copyfileobj(stream, target)
    return packed


def _keys(registry: Registry, place: Place, scratch: Path, with_key: bool) -> dict[str, FileEntry]:
    """Whom the registry believes, and on demand the secret with which it signs."""
    private = registry.keys.existing()
    public = {f"trusted/{path.name}": path for path in registry.keys.trusted_files()}
    if private is not None:
        pem = public_key(private)
        own = scratch / "own.pem"
        own.write_bytes(pem)
        public[f"trusted/{fingerprint(pem)[:16]}.pem"] = own
        if with_key:
            public["signing.pem"] = private
    return {name: place.put(found_file(path)) for name, path in public.items()}
