"""Blobs in an object store, through fsspec: S3 and what speaks its protocol, and other services by their URL.

A blob is the object PREFIX/ab/abcdef…, named by its sha256. It appears whole or not at all: object stores
promise that of an upload, single or in parts; elsewhere it is written under another name and then moved. A
read or listing after a write must see it, as S3 promises. What is uploaded twice, also at once, is the same.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from registry.artifacts import FileEntry
from registry.errors import Corrupt, StoreFailed
from registry.store.files import Fault, Heard, unheard
from registry.store.local import INCOMING, SHARD, StoredBlob, is_blob
from registry.store.parts import PART, part_size, s3_etag
from registry.store.remote_errors import no_bucket, translate_error
from registry.store.url import S3, checked

THREADS = 8
"""Requests at once for small files; each of these may hold a part in memory."""
AHEAD = 4
"""Parts of one large file in memory at once."""
UPLOADS = 2
"""Times that a file is sent when what arrived is something else."""

_REPAIR = "run the stage that made it again, or restore the object from a backup"
_WHOLE_OR_NOTHING = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})


class RemoteBlobs:
    """Blobs below a URL. Connects when first used, and again in a forked process."""

    def __init__(self, url: str) -> None:
        """Raises InvalidSetting for a URL that is malformed, holds a secret, or whose package is missing."""
        self.url = checked(url)
        self._protocol, _, self._root = self.url.partition("://")
        self._connecting = threading.Lock()
        self._connected: dict[int, Any] = {}

    def put(self, files: Mapping[FileEntry, Path]) -> Iterator[FileEntry]:
        """Upload what is not there, or is there and damaged; yields each entry once it is there, checked.

        The files must not change meanwhile. Small ones go several at a time, large ones in parts. Raises
        StoreFull, StoreFailed.
        """
        yield from self._few_at_a_time(lambda entry: self._put(files[entry], entry), files)

    def fetch(self, wanted: Mapping[FileEntry, Path]) -> Iterator[FileEntry]:
        """Download to these paths; yields each entry once its file is on the disk and has the right digest.

        Raises Corrupt for an object that is missing or damaged, StoreFailed, and OSError for the disk.
        """
        yield from self._few_at_a_time(lambda entry: self._fetch(entry, wanted[entry]), wanted)

    def missing(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        wanted = list(dict.fromkeys(entries))
        with self._threads() as threads:
            present = list(threads.map(self._info, wanted))
        pairs = zip(wanted, present, strict=True)
        lacking = [entry for entry, info in pairs if not info or info["size"] != entry.size]
        if lacking:
            self._check_bucket()
        return lacking

    def fault(self, entry: FileEntry, heard: Heard = unheard) -> Fault | None:
        info = self._info(entry)
        if info is None:
            self._check_bucket()
            return "missing", f"does not exist in {self.url}"
        if info["size"] != entry.size:
            message = f"has {info['size']} bytes, expected {entry.size}"
            return ("truncated", message) if info["size"] < entry.size else ("altered", message)
        digest = hashlib.sha256()
        for part in self._parts(entry):
            digest.update(part)
            heard(len(part))
        if digest.hexdigest() != entry.sha256:
            return "altered", f"has sha256 {digest.hexdigest()[:12]}, expected {entry.sha256[:12]}"
        return None

    def delete(self, digests: Iterable[str]) -> None:
        with self._threads() as threads:
            for _ in threads.map(self._delete, digests):
                pass

    def stored(self) -> Iterator[StoredBlob]:
        for shard in sorted(self._children(self._root)):
            name = shard.rpartition("/")[2]
            if len(name) == SHARD:
                for info in self._children(shard).values():
                    digest = info["name"].rpartition("/")[2]
                    if info["type"] == "file" and is_blob(digest, name):
                        yield StoredBlob(digest, info["size"], _modified(info))

    def documents(self, folder: str) -> list[str]:
        """The names of what is in a folder beside the blobs; none where there is no such folder."""
        return [path.rpartition("/")[2] for path in self._children(f"{self._root}/{folder}")]

    def read_document(self, path: str) -> bytes:
        """The content of a small file beside the blobs. Raises StoreFailed."""
        with self._speaking(f"reading {path}") as files:
            return bytes(files.cat_file(f"{self._root}/{path}"))

    def write_document(self, path: str, content: bytes) -> None:
        """Write a small file beside the blobs, whole or not at all. Raises StoreFull, StoreFailed."""
        with self._speaking(f"writing {path}") as files:
            files.pipe_file(f"{self._root}/{path}", content)

    def close(self) -> None:
        """Let go of the connections; the next use makes new ones."""
        self._connected.pop(os.getpid(), None)

    def _put(self, path: Path, entry: FileEntry) -> FileEntry:
        for _ in range(1 + UPLOADS):
            info = self._info(entry)
            if info is not None and self._is_right(info, path, entry):
                return entry
            self._upload(path, entry)
        raise StoreFailed(
            f"blob {entry.sha256[:12]} in {self.url} differs from what was sent, {UPLOADS} times in a row; "
            "nothing was recorded: look into the store's log, and run the same command again"
        )

    def _is_right(self, info: Mapping[str, Any], path: Path, entry: FileEntry) -> bool:
        # S3's ETag is made of MD5s unless the bucket encrypts with a key service; then only reading is proof.
        if info["size"] != entry.size:
            return False
        etag = str(info.get("ETag", "")).strip('"')
        return (etag != "" and etag == s3_etag(path, entry.size)) or self.fault(entry) is None

    def _upload(self, path: Path, entry: FileEntry) -> None:
        target, sent = self._path(entry.sha256), str(path)
        with self._speaking(f"uploading blob {entry.sha256[:12]}") as files:
            if self._protocol in S3:
                files.put_file(sent, target, chunksize=part_size(entry.size), max_concurrency=AHEAD)
            elif self._protocol in _WHOLE_OR_NOTHING:
                files.put_file(sent, target)
            else:
                scratch = f"{self._root}/{INCOMING}/{uuid.uuid4().hex}"
                for place in (scratch, target):
                    files.makedirs(place.rpartition("/")[0], exist_ok=True)
                try:
                    files.put_file(sent, scratch)
                    files.mv(scratch, target)
                finally:
                    with suppress(Exception):
                        files.rm_file(scratch)

    def _fetch(self, entry: FileEntry, place: Path) -> FileEntry:
        digest = hashlib.sha256()
        with place.open("xb") as stream:
            for part in self._parts(entry):
                digest.update(part)
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        if digest.hexdigest() != entry.sha256:
            raise Corrupt(
                f"blob {entry.sha256[:12]} in {self.url} has sha256 {digest.hexdigest()[:12]}; {_REPAIR}"
            )
        return entry

    def _parts(self, entry: FileEntry) -> Iterator[bytes]:
        """The blob's bytes in order, a few parts ahead of the reader."""
        size = part_size(entry.size)
        starts = range(0, entry.size, size)
        read = lambda start: self._read(entry, start, min(start + size, entry.size))  # noqa: E731
        if len(starts) <= 1:
            yield from map(read, starts)
            return
        with self._threads() as threads:
            waiting = deque(threads.submit(read, start) for start in starts[:AHEAD])
            for start in starts[AHEAD:]:
                yield waiting.popleft().result()
                waiting.append(threads.submit(read, start))
            for part in waiting:
                yield part.result()

    def _read(self, entry: FileEntry, start: int, end: int) -> bytes:
        short = entry.sha256[:12]
        with self._speaking(f"downloading blob {short}") as files:
            try:
                part = files.cat_file(self._path(entry.sha256), start=start, end=end)
            except FileNotFoundError:
                self._check_bucket()
                raise Corrupt(f"blob {short} is missing from {self.url}; {_REPAIR}") from None
        if len(part) != end - start:
            raise Corrupt(
                f"blob {short} in {self.url} ends at byte {start + len(part)} of {entry.size}; {_REPAIR}"
            )
        return bytes(part)

    def _info(self, entry: FileEntry) -> dict[str, Any] | None:
        with self._speaking(f"looking for blob {entry.sha256[:12]}") as files:
            try:
                info: dict[str, Any] = files.info(self._path(entry.sha256))
            except FileNotFoundError:
                return None
            return info if info["type"] == "file" else None

    def _delete(self, digest: str) -> None:
        with self._speaking(f"deleting blob {digest[:12]}") as files, suppress(FileNotFoundError):
            files.rm_file(self._path(digest))

    def _children(self, path: str) -> dict[str, dict[str, Any]]:
        with self._speaking("listing") as files:
            try:
                return {info["name"].rstrip("/"): info for info in files.ls(path, detail=True)}
            except FileNotFoundError:
                self._check_bucket()
                return {}

    def _check_bucket(self) -> None:
        # S3 says of an object in a bucket that is gone that the object is not found: nobody may act on that.
        if self._protocol in S3:
            with self._speaking("looking for the bucket") as files:
                try:
                    files.info(self._root.partition("/")[0])
                except FileNotFoundError:
                    raise no_bucket("looking for the bucket", self.url) from None

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:SHARD]}/{digest}"

    @contextmanager
    def _speaking(self, what: str) -> Iterator[Any]:
        """The connected file system; what it raises leaves the block in the registry's words."""
        try:
            yield self._filesystem()
        except Exception as error:
            ours = translate_error(error, what, self.url)
            if ours is error:
                raise
            raise ours from error

    def _filesystem(self) -> Any:
        # A file system made before a fork would wait for a thread that the child does not have.
        with self._connecting:
            if os.getpid() not in self._connected:
                self._connected[os.getpid()] = _connect(self._protocol)
            return self._connected[os.getpid()]

    @contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor]:
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)

    def _few_at_a_time(
        self, work: Callable[[FileEntry], FileEntry], entries: Iterable[FileEntry]
    ) -> Iterator[FileEntry]:
        """Small files side by side, each large one, which has parts of its own, alone."""
        wanted = list(entries)
        with self._threads() as threads:
            yield from threads.map(work, [entry for entry in wanted if entry.size <= PART])
        yield from map(work, [entry for entry in wanted if entry.size > PART])


def _connect(protocol: str) -> Any:
    if protocol in S3:
        from registry.store import s3

        return s3.S3.connect_anew(2 * THREADS)
    import fsspec

    return fsspec.filesystem(protocol)


def _modified(info: Mapping[str, Any]) -> float:
    for key in ("LastModified", "mtime", "modified", "updated", "last_modified", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()  # unknown: as if it were new, so that nobody takes it for a left one
