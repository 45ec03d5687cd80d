"""Files as the registry trusts them: regular, safely named, read whole, durable before use."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.artifacts import FileEntry
from registry.errors import InvalidArtifact, StoreFailed, StoreFull, StoreRefused
from registry.names import check_file_names

Fault = tuple[Literal["missing", "altered", "truncated"], str]
"""How stored bytes differ from what was published, and in words."""

Heard = Callable[[int], None]
"""Called with a number of bytes as soon as they were read."""
_PIECE = 2**20


def unheard(_bytes: int) -> None:
    """For whoever does not ask how far it is."""


@dataclass(frozen=True)
class FoundFile:
    """A file of a draft: its digest, and what its inode looked like while it was read."""

    path: Path
    entry: FileEntry
    stamp: tuple[int, int, int]


def scan(root: Path, leave_out: str) -> dict[str, FoundFile]:
    """Digest the regular files below `root`, without the directory `leave_out` at its top.

    Raises InvalidArtifact for anything that is not a regular file or a directory, and for unsafe names.
    """
    paths = {}
    for path in walk(root, leave_out):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
            raise InvalidArtifact(
                f"{path.relative_to(root)} is {kind.get(stat.S_IFMT(mode), 'a device')}; an artifact holds "
                "regular files only: write a copy of the content instead"
            )
        paths[path.relative_to(root).as_posix()] = path
    try:
        check_file_names(sorted(paths))
    except ValueError as error:
        raise InvalidArtifact(str(error)) from error
    if not paths:
        raise InvalidArtifact(f"{root} holds no file; a stage must write at least one before it is published")
    return {name: found_file(paths[name]) for name in sorted(paths)}


def fault(path: Path, entry: FileEntry, heard: Heard = unheard) -> Fault | None:
    """How the file at `path` differs from `entry` (every byte is read), or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing", "does not exist"
    except OSError as error:
        return "altered", f"cannot be opened as a regular file ({error.strerror})"
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return "altered", "is not a regular file"
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        if status.st_size < entry.size:
            return "truncated", f"has {status.st_size} bytes of {entry.size}"
        if status.st_size > entry.size:
            return "altered", f"has {status.st_size} bytes, expected {entry.size}"
        try:
            digest = _digest(stream, heard)
        except OSError as error:
            return "altered", f"cannot be read ({error.strerror})"
    if digest != entry.sha256:
        return "altered", f"has sha256 {digest[:12]}, expected {entry.sha256[:12]}"
    return None


def _digest(stream: io.FileIO, heard: Heard) -> str:
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    while size := stream.readinto(piece):
        digest.update(piece[:size])
        heard(size)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Have the file's bytes on the disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_directory = sync_file


def remove_tree(path: Path) -> None:
    """Remove what is at `path`, read-only directories included; no error when nothing is."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_SUCH_A_PATH = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""With `_REFUSED`, what says that the place cannot be used so, rather than that a disk failed."""


@contextmanager
def wrap_os_errors(what: str) -> Iterator[None]:
    """Turn the system's errors into the registry's."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFull(
                f"{what}: no space left on {error.filename or 'the disk'}; nothing was recorded: "
                "free some space and run the same command again"
            ) from error
        kind = StoreRefused if error.errno in _REFUSED | _NOT_SUCH_A_PATH else StoreFailed
        raise kind(f"{what}: {error}; nothing was recorded: check the disk and the permissions") from error


def found_file(path: Path) -> FoundFile:
    """Digest a regular file. Raises InvalidArtifact when it changes meanwhile, and OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        before = os.fstat(descriptor)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    file = FoundFile(path, FileEntry(sha256=sha256, size=before.st_size), _stamp(before))
    refuse_changed(file, path.lstat())
    return file


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def refuse_changed(file: FoundFile, status: os.stat_result) -> None:
    """Raise InvalidArtifact unless the file still is as it was when it was digested (inode, size, time)."""
    if _stamp(status) != file.stamp:
        raise InvalidArtifact(
            f"{file.path} changed while it was read; nothing may write to a draft at its commit"
        )


def walk(root: Path, leave_out: str = "") -> Iterator[Path]:
    """Everything below `root` that is not a directory, links not followed."""
    for directory, below, files in os.walk(root, onerror=_raise):
        here = Path(directory)
        if here == root and leave_out in below:
            below.remove(leave_out)
        below.sort()
        yield from (here / name for name in below if (here / name).is_symlink())
        yield from (here / name for name in files)


def leaves(view: Path) -> Iterator[tuple[str, int]]:
    """Name and size of all that is in a view; -1 for what is not a regular file, empty directories too."""
    for path in walk(view):
        status = path.lstat()
        yield path.relative_to(view).as_posix(), status.st_size if stat.S_ISREG(status.st_mode) else -1
    for directory, below, files in os.walk(view):
        if not below and not files and directory != str(view):
            yield Path(directory).relative_to(view).as_posix(), -1


def same_file(path: Path, blob: Path) -> bool:
    """Whether both names are one inode; a symbolic link is not."""
    try:
        return not path.is_symlink() and path.samefile(blob)
    except OSError:
        return False


def _raise(error: OSError) -> None:
    raise error
