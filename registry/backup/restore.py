"""A registry again: files first, each checked on its way, then all rows in one transaction.

Until that transaction is committed the registry is empty, so whatever ends a restore, the same command goes
on from there: files that came over are read and kept.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import FileEntry
from registry.backup import rows, snapshot
from registry.backup.check import registry_problems
from registry.backup.make import Progress
from registry.backup.place import Place
from registry.backup.snapshot import Snapshot
from registry.backup.transfer import transfer
from registry.errors import AlreadyExists, Conflict, Corrupt
from registry.registry import Registry
from registry.store.files import sync_directory, sync_file, wrap_os_errors
from registry.store.local import Failpoint

FAILPOINTS = (
    "restore begun",
    "restore copied",
    "restore files copied",
    "restore rows written",
    "restore done",
)
"""In order; "restore copied" once for each file."""


@dataclass(frozen=True)
class Restored:
    """What came over. `already`: the registry held exactly this before, so nothing was written."""

    snapshot: Snapshot
    files: int
    already: bool
    problems: list[str]


def restore(
    registry: Registry,
    place: Place,
    made: Snapshot,
    progress: Progress = lambda done, of: None,
    failpoint: Failpoint = lambda at: None,
) -> Restored:
    """Bring the backup into the registry, which has to be empty or to hold exactly this already; then check.

    Raises AlreadyExists for a registry that holds anything else, Corrupt for a damaged backup, naming the
    artifact, Conflict while another restore writes here, StoreFull, StoreFailed.
    """
    with wrap_os_errors(f"restoring into {registry.home}"), alone(registry.home) as scratch:
        failpoint("restore begun")
        with snapshot.opened(place, made, scratch) as copy, copy.read() as source:
            known = rows.digest(source)
            with registry.database.read() as connection:
                already = not rows.is_empty(connection)
                if already and rows.digest(connection) != known:
                    raise AlreadyExists(
                        f"the registry of {registry.home} is not empty; restore into a new home (--to) or an "
                        "empty database: nothing here was changed"
                    )
            files, count = snapshot.needed(source), 0
            blobs = registry.store.blobs
            for _ in transfer(files, place.blobs, blobs, scratch, files.__getitem__, reread=True):
                progress(count := count + 1, len(files))
                failpoint("restore copied")
            _bring_keys(registry.home, place, made, scratch)
            failpoint("restore files copied")
            if not already:
                with registry.database.write() as target:
                    if not rows.is_empty(target):
                        raise Conflict(
                            f"{registry.home}: another process restored into it meanwhile; check what it "
                            "holds"
                        )
                    rows.copy(source, target)
                    failpoint("restore rows written")
        failpoint("restore done")
        with registry.database.read() as connection:
            problems = [] if rows.digest(connection) == known else ["the rows differ from the backup's"]
        return Restored(made, count, already, problems + registry_problems(registry))


@contextmanager
def alone(home: Path) -> Iterator[Path]:
    """A directory to work in, ours until this ends, however it ends."""
    scratch = home / "restore.part"
    scratch.mkdir(mode=0o700, exist_ok=True)
    with (home / "restore.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another restore is writing into {home}; wait until it ends") from None
        try:
            yield scratch
        finally:
            for left in scratch.iterdir():
                left.unlink()
            scratch.rmdir()


def _bring_keys(home: Path, place: Place, made: Snapshot, scratch: Path) -> None:
    for name, entry in made.keys.items():
        target = home / "keys" / name
        if not target.exists():
            _bring_key(target, place, entry, scratch / "key")


def _bring_key(target: Path, place: Place, entry: FileEntry, draft: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for _ in place.blobs.fetch({entry: draft}):
            draft.chmod(0o600)
            sync_file(draft)
            draft.rename(target)
            sync_directory(target.parent)
    except Corrupt as error:
        raise Corrupt(f"key {target.name} of the backup is damaged: {error}") from error
