"""The content store: blobs, and read-only directories of links to them for engines.

Blobs are in `home/blobs`, in a directory of another file system (`file:///mnt/store`), or in an object store
(`s3://bucket/prefix`, or any other URL that fsspec knows). In the last case `home/cache` keeps what this
machine published or read: publishing puts a file into the cache, too, and a view downloads what the cache
lacks. The cache may be removed at any time; what a view links stays readable.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from registry.artifacts import FileEntry, Record
from registry.errors import Corrupt, StoreFailed
from registry.names import check_file_names
from registry.store.files import (
    FoundFile,
    Heard,
    fault,
    leaves,
    refuse_changed,
    remove_tree,
    same_file,
    unheard,
    wrap_os_errors,
)
from registry.store.local import CANNOT_LINK, Failpoint, LocalBlobs, StoredBlob
from registry.store.remote import RemoteBlobs
from registry.store.url import directory_of

LEFT_BEHIND_SECONDS = 24 * 3600.0
"""What nobody touched for so long in a place for unfinished work is left from a crash."""


class Discrepancy(Record):
    """One way in which what is stored differs from its manifest."""

    file: str
    kind: Literal["missing", "altered", "truncated", "extra", "record"]
    detail: str

    def __str__(self) -> str:
        return f"{self.file or 'manifest'}: {self.kind}: {self.detail}"


class Store:
    """Blobs and views of one registry. Methods are as `Blobs` promises, where they have its names."""

    def __init__(self, home: Path, failpoint: Failpoint, url: str | None = None) -> None:
        """The store at `url`, by default in `home`; an object store is first spoken to when it is needed.

        Raises InvalidSetting for a URL that cannot be read, and OSError.
        """
        self._failpoint = failpoint
        self._views = home / "views"
        elsewhere = directory_of(url) if url else None
        self._remote = RemoteBlobs(url) if url and elsewhere is None else None
        self._local = LocalBlobs(elsewhere or home / ("cache" if self._remote else "blobs"), failpoint)
        self._beside_drafts = elsewhere is None
        self._local.root.mkdir(parents=True, exist_ok=True)

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use it, and a request may arrive after its sender is gone."""
        return not (self._remote is None and self._beside_drafts)

    @property
    def folder(self) -> Path:
        """Where files are kept on this machine: all of them, or the cache of an object store."""
        return self._local.root

    @property
    def blobs(self) -> LocalBlobs | RemoteBlobs:
        """Where the blobs are, without cache and views: what a backup copies from and a restore into."""
        return self._remote or self._local

    def put(self, files: Collection[FoundFile], scratch: Path) -> None:
        """Store a draft's files under their digests, durably; `scratch` is a directory to use in between.

        A blob that is there is checked first, and replaced if it is damaged. Raises InvalidArtifact for a
        file that changed after it was digested, OSError for the disk, StoreFull or StoreFailed for an object
        store.
        """
        different = {file.entry: file for file in files}
        for number, file in enumerate(different.values()):
            place = scratch / str(number) if self._beside_drafts else self._local.incoming()
            try:
                self._local.put(file, place)
            finally:
                place.unlink(missing_ok=True)
        if self._remote is not None:
            # From the draft and not from the cache, which a collection may empty meanwhile.
            for entry in self._remote.put({entry: file.path for entry, file in different.items()}):
                refuse_changed(different[entry], different[entry].path.lstat())
                self._failpoint("uploaded")

    def missing(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """Those whose blobs are not there in their full size. Cheap: no content is read."""
        return self.blobs.missing(entries)

    def delete(self, digests: Iterable[str]) -> None:
        """Remove blobs, from the cache too, but not from views. One that is gone already is no error."""
        gone = list(digests)
        self.blobs.delete(gone)
        if self._remote is not None:
            self._local.delete(gone)

    def stored(self) -> Iterator[StoredBlob]:
        """All blobs, in memory only a small part of them at a time."""
        return self.blobs.stored()

    def views(self) -> list[str]:
        """The ids of the artifacts that have a view here."""
        return sorted(path.name for path in self._views.iterdir() if len(path.name) == 64)

    def drop_view(self, artifact_id: str) -> None:
        """Remove the artifact's view, if there is one; what has its files open can read on."""
        remove_tree(self._views / artifact_id)

    def cached(self) -> Iterator[StoredBlob]:
        """What the cache holds; nothing unless the store is an object store: others have no cache."""
        return iter(()) if self._remote is None else self._local.stored()

    def drop_cached(self, digests: Iterable[str]) -> None:
        """Remove blobs from the cache only. The space is free once no view links them either."""
        if self._remote is not None:
            self._local.delete(digests)

    def sweep(self) -> None:
        """Remove what crashed processes left unfinished a day ago or earlier."""
        before = time.time() - LEFT_BEHIND_SECONDS
        self._local.sweep(before)
        for path in self._views.iterdir():
            with suppress(FileNotFoundError):
                if path.name.startswith(".") and path.lstat().st_ctime < before:
                    remove_tree(path)

    def close(self) -> None:
        """Let go of connections; the next use makes new ones."""
        if self._remote is not None:
            self._remote.close()

    def view(self, artifact_id: str, files: Mapping[str, FileEntry]) -> Path:
        """A read-only directory that holds exactly these files; made again when it is not complete.

        Only names, sizes and inodes are looked at; `Registry.verify` reads the bytes. What has to be
        downloaded is checked against its digest. Raises Corrupt when a blob is gone or damaged, StoreFull,
        StoreFailed.
        """
        view = self._views / artifact_id
        if not self._is_complete(view, files):
            check_file_names(files)
            fresh = self._views / f".{artifact_id}.{uuid.uuid4().hex}"
            with wrap_os_errors(f"view of artifact {artifact_id[:12]}"):
                try:
                    self._download(files, artifact_id)
                    self._fill(fresh, files, artifact_id)
                    self._install(fresh, view, files)
                finally:
                    remove_tree(fresh)
        return view

    def problems(
        self, artifact_id: str, files: Mapping[str, FileEntry], heard: Heard = unheard
    ) -> list[Discrepancy]:
        """Read every byte of the artifact: in the store, in the cache, and in the view where there is one.

        `heard` hears of those in the store.
        """
        problems = []
        for name, entry in files.items():
            short = entry.sha256[:12]
            if (problem := self.blobs.fault(entry, heard)) is not None:
                problems.append(Discrepancy(file=name, kind=problem[0], detail=f"blob {short} {problem[1]}"))
            if self._remote is not None:
                problem = self._local.fault(entry)
                if problem is not None and problem[0] != "missing":
                    problems.append(
                        Discrepancy(file=name, kind=problem[0], detail=f"cached blob {short} {problem[1]}")
                    )
        view = self._views / artifact_id
        return problems + (list(self._view_problems(view, files)) if os.path.lexists(view) else [])

    def _view_problems(self, view: Path, files: Mapping[str, FileEntry]) -> Iterator[Discrepancy]:
        if view.is_symlink() or not view.is_dir():
            yield Discrepancy(file=".", kind="altered", detail=f"the view {view} is not a directory")
            return
        present = {name for name, _ in leaves(view)}
        for name in sorted(present - files.keys()):
            yield Discrepancy(file=name, kind="extra", detail=f"in the view {view}, not in the manifest")
        for name, entry in files.items():
            path = view / name
            if name not in present or not same_file(path, self._local.path(entry.sha256)):
                problem = fault(path, entry)
                if problem is not None:
                    yield Discrepancy(file=name, kind=problem[0], detail=f"in the view {view}: {problem[1]}")

    def _download(self, files: Mapping[str, FileEntry], artifact_id: str) -> None:
        if self._remote is not None:
            lacking = self._local.missing(dict.fromkeys(files.values()))
            wanted = {entry: self._local.incoming() for entry in lacking}
            try:
                for entry in self._remote.fetch(wanted):
                    self._local.adopt(wanted[entry], entry)
            except Corrupt as error:
                raise Corrupt(f"artifact {artifact_id[:12]}: {error}") from error
            finally:
                for place in wanted.values():
                    place.unlink(missing_ok=True)

    def _fill(self, fresh: Path, files: Mapping[str, FileEntry], artifact_id: str) -> None:
        fresh.mkdir(parents=True)
        for name, entry in files.items():
            blob, target = self._local.path(entry.sha256), fresh / name
            size = blob.lstat().st_size if blob.is_file() else None
            if size != entry.size:
                raise Corrupt(
                    f"file {name} of artifact {artifact_id[:12]}: blob {entry.sha256[:12]} should have "
                    f"{entry.size} bytes and {'is missing' if size is None else f'has {size}'}; "
                    "run the stage that made it again, or restore the blobs directory from a backup"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(blob, target)
            except OSError as error:
                if error.errno not in CANNOT_LINK:
                    raise
                shutil.copyfile(blob, target)
                target.chmod(0o444)
        for directory, _, _ in os.walk(fresh):
            Path(directory).chmod(0o555)

    def _install(self, fresh: Path, view: Path, files: Mapping[str, FileEntry]) -> None:
        # Another process may put its own view there at any moment: then that one is as good.
        for _ in range(100):
            with suppress(OSError):
                fresh.rename(view)
                return
            if self._is_complete(view, files):
                return
            with suppress(FileNotFoundError):
                old = view.rename(self._views / f".{view.name}.{uuid.uuid4().hex}")
                remove_tree(old)
        raise StoreFailed(f"{view}: cannot be replaced; remove it and try again")

    def _is_complete(self, view: Path, files: Mapping[str, FileEntry]) -> bool:
        if not view.is_dir() or view.is_symlink():
            return False
        sizes = dict(leaves(view))
        return sizes == {name: entry.size for name, entry in files.items()} and all(
            self._mirrors(view / name, entry) for name, entry in files.items()
        )

    def _mirrors(self, path: Path, entry: FileEntry) -> bool:
        """Whether a view's file is the blob, or a copy made after the blob last changed (by a repair)."""
        blob = self._local.path(entry.sha256)
        if same_file(path, blob):
            return True
        if self._remote is not None and not blob.exists():
            return True  # the cache was cleared; the view is what it was
        return blob.is_file() and path.lstat().st_mtime_ns >= blob.lstat().st_ctime_ns
