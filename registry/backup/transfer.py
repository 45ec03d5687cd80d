"""Blobs from one place to another; each is checked against its digest on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from registry.artifacts import FileEntry
from registry.errors import Corrupt
from registry.store.local import LocalBlobs
from registry.store.remote import RemoteBlobs

AT_ONCE = 32
"""Blobs of which the scratch directory holds copies at one time."""
AnyBlobs = LocalBlobs | RemoteBlobs


def transfer(
    entries: Iterable[FileEntry],
    source: AnyBlobs,
    target: AnyBlobs,
    scratch: Path,
    label: Callable[[FileEntry], str],
    reread: bool = False,
) -> Iterator[FileEntry]:
    """Copy what `target` lacks; yields each entry once it is there. `reread`: what is there is read, too.

    Raises Corrupt for a blob that is missing or damaged in `source`, under its `label`; StoreFull,
    StoreFailed, and OSError for the disk.
    """
    there = {blob.sha256: blob.size for blob in target.stored()}
    lacking = [
        entry
        for entry in dict.fromkeys(entries)
        if there.get(entry.sha256) != entry.size or (reread and target.fault(entry) is not None)
    ]
    for start in range(0, len(lacking), AT_ONCE):
        batch = lacking[start : start + AT_ONCE]
        try:
            yield from _copied(batch, source, target, scratch)
        except Corrupt as error:
            for entry in batch:
                if (fault := source.fault(entry)) is not None:
                    raise Corrupt(
                        f"{label(entry)}: blob {entry.sha256} {fault[1]}; nothing was recorded: put a "
                        "whole copy of that file in its place, and run the same command again"
                    ) from error
            raise


def _copied(batch: list[FileEntry], source: AnyBlobs, target: AnyBlobs, scratch: Path) -> Iterator[FileEntry]:
    if isinstance(source, LocalBlobs) and isinstance(target, RemoteBlobs):
        for entry in batch:
            if (fault := source.fault(entry)) is not None:
                raise Corrupt(f"blob {entry.sha256[:12]} {fault[1]}")
        yield from target.put({entry: source.path(entry.sha256) for entry in batch})
        return
    wanted = {
        entry: target.incoming() if isinstance(target, LocalBlobs) else scratch / entry.sha256
        for entry in batch
    }
    try:
        for entry in source.fetch(wanted):
            if isinstance(target, LocalBlobs):
                target.adopt(wanted[entry], entry)
                yield entry
        if isinstance(target, RemoteBlobs):
            yield from target.put(wanted)
    finally:
        for place in wanted.values():
            place.unlink(missing_ok=True)
