"""The content store: each file once, under its sha256, never changed; directories of links for engines.

A blob appears in the order link or copy, fsync, rename, fsync of the directory; its name says what it holds.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from registry.artifacts import FileEntry, Record
from registry.errors import Corrupt, InvalidArtifact, StoreFailed
from registry.files import (
    FoundFile,
    fault,
    leaves,
    refuse_changed,
    remove_tree,
    same_file,
    sync_directory,
    sync_file,
    translated,
)
from registry.names import check_file_names

Point = Callable[[str], None]
"""Called with the name of each point that a publication passes; a test may fail or end the process there."""

_CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})


class Problem(Record):
    """One way in which what is stored differs from its manifest."""

    file: str
    kind: Literal["missing", "altered", "truncated", "extra", "record"]
    detail: str

    def __str__(self) -> str:
        return f"{self.file or 'manifest'}: {self.kind}: {self.detail}"


class LocalStore:
    """Blobs and views in one directory of a local file system."""

    def __init__(self, home: Path, point: Point) -> None:
        self._blobs = home / "blobs"
        self._views = home / "views"
        self._point = point

    def put(self, found: FoundFile, scratch: Path) -> None:
        """Store a draft's file under its digest, durably; `scratch` is a path to use in between.

        A blob that is there is read first and replaced if it is damaged. Raises InvalidArtifact when the file
        changed after it was digested.
        """
        blob = self._blob(found.entry.sha256)
        if not blob.parent.is_dir():
            blob.parent.mkdir(exist_ok=True)
            sync_directory(self._blobs)
        if fault(blob, found.entry) is not None:
            _link_or_copy(found, scratch)
            self._point("staged")
            sync_file(scratch)
            self._point("synced")
            scratch.rename(blob)
            self._point("renamed")
        sync_directory(blob.parent)
        self._point("directory synced")

    def view(self, artifact_id: str, files: Mapping[str, FileEntry]) -> Path:
        """A read-only directory that holds exactly these files; made again when it is not complete.

        Only names, sizes and inodes are looked at; `Registry.verify` reads the bytes. Raises Corrupt when a
        blob is gone.
        """
        view = self._views / artifact_id
        if not self._is_complete(view, files):
            check_file_names(files)
            fresh = self._views / f".{artifact_id}.{uuid.uuid4().hex}"
            with translated(f"view of artifact {artifact_id[:12]}"):
                try:
                    self._fill(fresh, files, artifact_id)
                    self._install(fresh, view, files)
                finally:
                    remove_tree(fresh)
        return view

    def problems(self, artifact_id: str, files: Mapping[str, FileEntry]) -> list[Problem]:
        """Read every byte of the artifact, in the blobs and, where there is one, in the view."""
        found = []
        for name, entry in files.items():
            problem = fault(self._blob(entry.sha256), entry)
            if problem is not None:
                found.append(
                    Problem(file=name, kind=problem[0], detail=f"blob {entry.sha256[:12]} {problem[1]}")
                )
        view = self._views / artifact_id
        return found + (list(self._view_problems(view, files)) if view.is_dir() else [])

    def _view_problems(self, view: Path, files: Mapping[str, FileEntry]) -> Iterator[Problem]:
        present = {name for name, _ in leaves(view)}
        for name in sorted(present - files.keys()):
            yield Problem(file=name, kind="extra", detail=f"in the view {view}, not in the manifest")
        for name, entry in files.items():
            path = view / name
            if name not in present or not same_file(path, self._blob(entry.sha256)):
                problem = fault(path, entry)
                if problem is not None:
                    yield Problem(file=name, kind=problem[0], detail=f"in the view {view}: {problem[1]}")

    def _blob(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256

    def _fill(self, fresh: Path, files: Mapping[str, FileEntry], artifact_id: str) -> None:
        fresh.mkdir(parents=True)
        for name, entry in files.items():
            blob, target = self._blob(entry.sha256), fresh / name
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
                if error.errno not in _CANNOT_LINK:
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
            _mirrors(view / name, self._blob(entry.sha256)) for name, entry in files.items()
        )


def _link_or_copy(found: FoundFile, scratch: Path) -> None:
    # A file with another name elsewhere could still be written through it, so only a sole name is linked.
    linked = False
    if found.path.lstat().st_nlink == 1:
        try:
            os.link(found.path, scratch)
            linked = True
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
    if not linked:
        shutil.copyfile(found.path, scratch, follow_symlinks=False)
    scratch.chmod(0o444)
    if linked:
        refuse_changed(found, scratch.lstat())
    elif fault(scratch, found.entry) is not None:
        raise InvalidArtifact(
            f"{found.path} changed while it was copied; nothing may write to a draft at its commit"
        )


def _mirrors(path: Path, blob: Path) -> bool:
    """Whether a view's file is the blob, or a copy made after the blob last changed (by a repair)."""
    if same_file(path, blob):
        return True
    return blob.is_file() and path.lstat().st_mtime_ns >= blob.lstat().st_ctime_ns
