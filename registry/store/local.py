"""Blobs: the bytes of files, each once, under their sha256, never changed.

`Blobs` says what every place that keeps them promises. A directory is here, an object store is in
registry.store.remote; registry.store.store chooses, and makes directories of links for engines.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.artifacts import FileEntry
from registry.errors import Corrupt, InvalidArtifact
from registry.store.files import (
    Fault,
    FoundFile,
    Heard,
    fault,
    found_file,
    refuse_changed,
    remove_tree,
    sync_directory,
    sync_file,
    unheard,
)

Failpoint = Callable[[str], None]
"""Called with the name of each failpoint that a publication or a collection passes: a test may fail there."""

CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})
INCOMING = "incoming"
SHARD = 2
"""Hexadecimal digits of a digest that name the directory its blob is in."""


@dataclass(frozen=True)
class StoredBlob:
    """What a listing says of a blob; `modified` is in seconds since the epoch."""

    sha256: str
    size: int
    modified: float


class Blobs(Protocol):
    """A place that keeps blobs; any number of processes may use it at once."""

    def missing(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """Those that are not there in their full size. Cheap: no content is read."""

    def fault(self, entry: FileEntry, heard: Heard = unheard) -> Fault | None:
        """How the blob differs from its digest, or None; every byte is read."""

    def delete(self, digests: Iterable[str]) -> None:
        """Remove blobs for good; one that is gone already is no error."""

    def stored(self) -> Iterator[StoredBlob]:
        """All blobs, in memory only a small part of them at a time; nothing else that may lie around."""


class LocalBlobs:
    """Blobs in a directory. One appears in the order link or copy, fsync, rename, fsync of the directory."""

    def __init__(self, root: Path, failpoint: Failpoint) -> None:
        self.root = root
        self._failpoint = failpoint
        self._synced: set[Path] = set()

    def put(self, file: FoundFile, scratch: Path) -> None:
        """Store a draft's file under its digest, durably; `scratch` is a path on this file system to use.

        A blob that is there is read first and replaced if it is damaged. Raises InvalidArtifact when the file
        changed after it was digested, and OSError.
        """
        blob = self._ready(file.entry)
        if fault(blob, file.entry) is not None:
            _link_or_copy(file, scratch)
            self._failpoint("staged")
            self._install(scratch, blob)
        sync_directory(blob.parent)
        self._failpoint("directory synced")

    def adopt(self, fetched: Path, entry: FileEntry) -> None:
        """Take over a file on this file system that was checked against `entry`."""
        blob = self._ready(entry)
        fetched.chmod(0o444)
        self._install(fetched, blob)
        sync_directory(blob.parent)

    def fetch(self, wanted: Mapping[FileEntry, Path]) -> Iterator[FileEntry]:
        """Copy to these paths; yields each entry once its copy is whole and has the right digest.

        Raises Corrupt for a blob that is missing or damaged, and OSError for the disk.
        """
        for entry, place in wanted.items():
            blob = self.path(entry.sha256)
            if entry in self.missing([entry]):
                raise Corrupt(f"blob {entry.sha256[:12]} in {self.root} is missing or has another size")
            shutil.copyfile(blob, place, follow_symlinks=False)
            if (problem := fault(place, entry)) is not None:
                raise Corrupt(f"blob {entry.sha256[:12]} in {self.root} {problem[1]}")
            yield entry

    def incoming(self) -> Path:
        """A path on this file system that nobody else uses; what a crash leaves there goes with `sweep`."""
        folder = self.root / INCOMING
        folder.mkdir(exist_ok=True)
        return folder / uuid.uuid4().hex

    def sweep(self, before: float) -> None:
        """Remove what a crash left in `incoming` before the time `before`, seconds since the epoch."""
        with suppress(FileNotFoundError):
            for path in (self.root / INCOMING).iterdir():
                with suppress(FileNotFoundError):
                    if path.lstat().st_ctime < before:
                        remove_tree(path)

    def missing(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        return [entry for entry in entries if not self._has(entry)]

    def fault(self, entry: FileEntry, heard: Heard = unheard) -> Fault | None:
        return fault(self.path(entry.sha256), entry, heard)

    def delete(self, digests: Iterable[str]) -> None:
        for digest in digests:
            remove_tree(self.path(digest))

    def stored(self) -> Iterator[StoredBlob]:
        for shard in sorted(path for path in self.root.iterdir() if len(path.name) == SHARD):
            with os.scandir(shard) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if is_blob(entry.name, shard.name):
                            yield StoredBlob(entry.name, status.st_size, status.st_mtime)

    def path(self, sha256: str) -> Path:
        """Where the blob of this digest is, or would be."""
        return self.root / sha256[:SHARD] / sha256

    def _has(self, entry: FileEntry) -> bool:
        try:
            status = self.path(entry.sha256).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == entry.size

    def _ready(self, entry: FileEntry) -> Path:
        """The blob's path; its directory is there, durably, and nothing but a file is in its way."""
        blob = self.path(entry.sha256)
        if blob.parent not in self._synced:
            blob.parent.mkdir(exist_ok=True)
            sync_directory(self.root)
            self._synced.add(blob.parent)
        if blob.is_dir() and not blob.is_symlink():
            remove_tree(blob)
        return blob

    def _install(self, scratch: Path, blob: Path) -> None:
        sync_file(scratch)
        self._failpoint("synced")
        scratch.rename(blob)
        self._failpoint("renamed")


def is_blob(name: str, shard: str) -> bool:
    """Whether a file of this name in this directory is a blob."""
    return re.fullmatch("[0-9a-f]{64}", name) is not None and name.startswith(shard)


def _link_or_copy(file: FoundFile, scratch: Path) -> None:
    # A file with another name elsewhere could still be written through it, so only a sole name is linked.
    linked = False
    if file.path.lstat().st_nlink == 1:
        try:
            os.link(file.path, scratch)
            linked = True
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
    if not linked:
        shutil.copyfile(file.path, scratch, follow_symlinks=False)
    scratch.chmod(0o444)
    if linked:
        refuse_changed(file, scratch.lstat())
    elif found_file(scratch).entry != file.entry:
        raise InvalidArtifact(
            f"{file.path} changed while it was copied; nothing may write to a draft at its commit"
        )
