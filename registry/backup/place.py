"""Where backups are: a directory or a URL, with `blobs/` and, for each backup, `snapshots/NAME.json`."""

from __future__ import annotations

import re
import time
from pathlib import Path

from registry.artifacts import FileEntry
from registry.backup.transfer import AnyBlobs
from registry.errors import InvalidSetting
from registry.store.files import FoundFile, sync_directory, sync_file, wrap_os_errors
from registry.store.local import LocalBlobs
from registry.store.remote import RemoteBlobs
from registry.store.store import LEFT_BEHIND_SECONDS
from registry.store.url import directory_of

NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")


class Place:
    """A place for backups; they share their blobs."""

    blobs: AnyBlobs

    def __init__(self, where: str, make: bool = False) -> None:
        """Raises InvalidSetting for a directory that is not one of backups, or, unless `make`, not there."""
        self.where = where
        folder = directory_of(where) if where.startswith("file:") else Path(where).expanduser().absolute()
        self.folder = None if "://" in where and not where.startswith("file:") else folder
        if self.folder is None:
            self._remote = RemoteBlobs(where)
            self.blobs = RemoteBlobs(f"{self._remote.url}/blobs")
            return
        with wrap_os_errors(f"backup at {self.folder}"):
            self._refuse_other_directory(self.folder, make)
            if make:
                for name in ("blobs", "snapshots"):
                    (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.blobs = LocalBlobs(self.folder / "blobs", lambda _: None)
        if make:
            self.blobs.sweep(time.time() - LEFT_BEHIND_SECONDS)

    def _refuse_other_directory(self, folder: Path, make: bool) -> None:
        content = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if "registry.db" in content:
            raise InvalidSetting(
                f"{folder} is the home of a registry; give another directory for its backups"
            )
        if (content or folder.exists()) and "snapshots" not in content and not (make and not content):
            raise InvalidSetting(
                f"{folder} is not a place of backups, and not empty; give the directory or URL of backups, "
                "or a new one"
            )
        if not content and not make:
            raise InvalidSetting(f"{folder} holds no backups; `tuneline backup {folder}` makes one there")

    def put(self, file: FoundFile) -> FileEntry:
        """Store one file under its digest. Raises StoreFull, StoreFailed, OSError."""
        if isinstance(self.blobs, LocalBlobs):
            self.blobs.put(file, self.blobs.incoming())
        else:
            for _ in self.blobs.put({file.entry: file.path}):
                pass
        return file.entry

    def names(self) -> list[str]:
        """The names of the backups that are complete, oldest first."""
        if self.folder is not None:
            files = [path.name for path in (self.folder / "snapshots").iterdir()]
        else:
            files = self._remote.documents("snapshots")
        names = (name.removesuffix(".json") for name in files if name.endswith(".json"))
        return sorted(name for name in names if NAME.fullmatch(name))

    def read(self, name: str) -> bytes:
        """The manifest of this name. Raises OSError, StoreFailed."""
        if self.folder is not None:
            return (self.folder / "snapshots" / f"{name}.json").read_bytes()
        return self._remote.read_document(f"snapshots/{name}.json")

    def write(self, name: str, content: bytes) -> None:
        """Write a manifest, whole or not at all and durably: its backup is complete from then on."""
        if self.folder is None:
            self._remote.write_document(f"snapshots/{name}.json", content)
            return
        path = self.folder / "snapshots" / f"{name}.json"
        draft = path.with_name(f".{name}.part")
        draft.write_bytes(content)
        sync_file(draft)
        draft.rename(path)
        sync_directory(path.parent)
