"""Publishing on a disk or object store that fails: `python -m tests.reliability.faults --store s3`.

A publication is repeated once per call to the system (per request, with an object store) and per error, with
that call failing: always a clear error or success, nothing half visible, nothing lost that was there, and
the same id when tried again. The order of calls is recorded (write, fsync, rename, fsync of the directory,
commit), and wrong orders are shown to be noticed. Where mounting is allowed, a small disk is filled for real.
Prints one JSON document; exits with 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from sqlalchemy import event

from registry import Registry
from registry.artifacts import StageResult, memo_key
from registry.catalog import ResourceUse
from registry.errors import RegistryError, StoreFailed, StoreFull
from registry.store import local as blobs
from registry.store.local import LocalBlobs
from registry.store.store import Store
from tests.registry.backends import Backend, Backends
from tests.reliability import choice

FILES = {"a.txt": b"first", "b.txt": b"second" * 1000}
EARLIER = {"earlier.txt": b"was there before", "b.txt": b"second" * 1000}
CALLS = (
    "open",
    "link",
    "fsync",
    "rename",
    "mkdir",
    "chmod",
    "lstat",
    "sendfile",
    "unlink",
    "scandir",
    "rmdir",
)
KINDS: dict[int, type[RegistryError]] = {errno.ENOSPC: StoreFull, errno.EIO: StoreFailed}


def publish(registry: Registry, files: dict[str, bytes]) -> str:
    with registry.draft(memo_key("prepare", 1, {"n": sorted(files)}, {}, {}), "prepare") as draft:
        for name, content in files.items():
            (draft.path / name).write_bytes(content)
        return draft.commit(
            StageResult(kind="dataset", stage="prepare", stage_version=1),
            ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 0),
        ).id


class Failing:
    """Makes the nth of the watched calls fail with an error; counts them all."""

    def __init__(self, nth: int, error: Callable[[], Exception], *, too_late: bool = False) -> None:
        self.nth, self.error, self.too_late, self.count = nth, error, too_late, 0
        self.failed = ""

    def call(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.count - 1 != self.nth:
            return real(*arguments, **options)
        self.failed = name
        if self.too_late:
            real(*arguments, **options)
        raise self.error()

    async def request(self, real: Callable[..., Any], method: str, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.count - 1 != self.nth:
            return await real(method, *arguments, **options)
        self.failed = f"{method}{', answer lost' if self.too_late else ''}"
        if self.too_late:
            await real(method, *arguments, **options)
        raise self.error()


@contextmanager
def disk_that(failing: Failing, links: bool) -> Iterator[None]:
    """The system's file calls go through `failing`; without `links`, files have to be copied."""

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)
        if name == "link" and not links:

            def real(*_: object, **__: object) -> None:
                raise OSError(errno.EXDEV, "no links here")

        return lambda *arguments, **options: failing.call(name, real, *arguments, **options)

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, wrapped(name)))
        yield


@contextmanager
def store_that(failing: Failing) -> Iterator[None]:
    """Requests to the object store go through `failing`."""
    from registry.store.s3 import S3

    real = S3._call_s3

    async def call(self: S3, method: str, *arguments: Any, **options: Any) -> Any:
        return await failing.request(lambda *a, **o: real(self, *a, **o), method, *arguments, **options)

    with mock.patch.object(S3, "_call_s3", call):
        yield


def try_once(backend: Backend, expected: tuple[str, str], fail: Any, kind: type[RegistryError]) -> list[str]:
    """Publish under a fault and again without; returns what went wrong."""
    earlier, wanted = expected
    wrong, said, found = [], None, None
    with backend.open() as registry:
        publish(registry, EARLIER)
    with backend.open() as registry, fail:
        try:
            found = publish(registry, FILES)
        except RegistryError as error:
            said = error
        except Exception as error:
            wrong.append(f"ended with {error!r}")
    if said is not None and not (isinstance(said, kind) and "nothing was recorded" in str(said)):
        wrong.append(f"said {said!r}")
    with backend.open() as registry:
        listed = {one.id for one in registry.ls()}
        if listed != ({earlier} if found is None else {earlier, wanted}):
            wrong.append(f"{len(listed)} artifacts are visible")
        wrong += [f"lost: {problem}" for problem in registry.verify(earlier)]
        if (again := publish(registry, FILES)) != wanted:
            wrong.append(f"published again: {again[:12]} instead of {wanted[:12]}")
        wrong += [f"published again: {problem}" for problem in registry.verify(wanted)]
    if list((backend.home / "drafts").iterdir()):
        wrong.append("drafts are left")
    return wrong


def every_fault(new_backend: Backends, store: str, stride: int = 1) -> dict[str, Any]:
    """One publication for each call and error."""
    with new_backend().open() as registry:
        expected = publish(registry, EARLIER), publish(registry, FILES)
    failed: Counter[str] = Counter()
    wrong: list[str] = []
    ways: list[tuple[str, Callable[[Failing], Any], bool, Callable[[], Exception], type[RegistryError]]] = []
    for code, kind in KINDS.items():
        error = lambda c=code: OSError(c, os.strerror(c), "the file")  # noqa: E731
        ways += [(os.strerror(code), lambda f: disk_that(f, True), False, error, kind)]
        ways += [(f"{os.strerror(code)}, no links", lambda f: disk_that(f, False), False, error, kind)]
    if store == "s3":
        refuse = lambda: ConnectionResetError("the connection is gone")  # noqa: E731
        ways = [
            ("request", store_that, False, refuse, StoreFailed),
            ("answer", store_that, True, refuse, StoreFailed),
        ]
    for what, make, too_late, error, kind in ways:
        nth, count = -1, 0  # the first one goes well, and says how many calls there are
        while nth < count:
            failing = Failing(nth, error, too_late=too_late)
            found = try_once(new_backend(), expected, make(failing), kind)
            count = max(count, failing.count)
            failed[f"{what}: {failing.failed or 'none'}"] += 1
            wrong += [f"{what} at call {nth} ({failing.failed}): {one}" for one in found]
            nth += stride
    return {"faults": sum(failed.values()), "at": dict(sorted(failed.items())), "wrong": wrong}


def recorded(backend: Backend) -> list[tuple[str, ...]]:
    """What a publication asks of the system, in order."""
    seen: list[tuple[str, ...]] = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(descriptor: int) -> None:
        seen.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def spy_rename(source: Any, target: Any, **options: Any) -> None:
        rename(source, target, **options)
        seen.append(("rename", str(source), str(target)))

    with backend.open(failpoint=lambda point: seen.append(("point", point))) as registry:
        event.listen(registry.database.engine, "commit", lambda _: seen.append(("commit",)))
        with mock.patch.object(os, "fsync", spy_fsync), mock.patch.object(os, "rename", spy_rename):
            publish(registry, FILES)
    return seen


def order_faults(seen: list[tuple[str, ...]], root: Path) -> list[str]:
    """Where the recorded order would let a power cut leave a visible artifact without its bytes."""
    if ("point", "rows written") not in seen:
        return ["no rows were written"]
    rows = seen.index(("point", "rows written"))
    commit = seen.index(("commit",), rows)
    wrong = []
    for file in sorted(set(FILES)):
        name = hashlib.sha256(FILES[file]).hexdigest()
        blob = root / name[:2] / name
        moves = [i for i, one in enumerate(seen) if one[0] == "rename" and one[2] == str(blob)]
        if not moves:
            wrong.append(f"{file} was never renamed to its blob")
            continue
        moved = moves[0]
        if ("fsync", seen[moved][1]) not in seen[:moved]:
            wrong.append(f"{file} was renamed before its bytes were on the disk")
        if ("fsync", str(blob.parent)) not in seen[moved:commit]:
            wrong.append(f"the directory of {file} was not on the disk before the commit")
        if ("fsync", str(root)) not in seen[:commit]:
            wrong.append("the directory of directories was not on the disk before the commit")
        if moved > rows:
            wrong.append(f"{file} came after its row")
    return wrong


def _hasty(self: LocalBlobs, scratch: Path, blob: Path) -> None:
    scratch.rename(blob)
    blobs.sync_file(blob)


WRONG_ORDERS: dict[str, Callable[[], Any]] = {
    "rename before fsync": lambda: mock.patch.object(LocalBlobs, "_install", _hasty),
    "no fsync of the file": lambda: mock.patch.object(blobs, "sync_file"),
    "no fsync of the directory": lambda: mock.patch.object(blobs, "sync_directory"),
    "rows without files": lambda: mock.patch.multiple(Store, put=lambda *_: None, missing=lambda *_: []),
}


def order(new_backend: Backends) -> dict[str, Any]:
    """The order is right, and each wrong one is noticed."""
    backend = new_backend()
    root = backend.home / ("cache" if backend.store_url else "blobs")
    wrong = order_faults(recorded(backend), root)
    for name, mistake in WRONG_ORDERS.items():
        backend = new_backend()
        with mistake():
            if not order_faults(recorded(backend), backend.home / root.name):
                wrong.append(f"nobody noticed: {name}")
    return {"wrong orders noticed": len(WRONG_ORDERS), "wrong": wrong}


def filled(disk: Path, steps: int) -> dict[str, Any]:
    """Publish on a small disk with less and less room, for real."""
    full, wrong = 0, []
    with TemporaryDirectory() as reference, Registry.open(Path(reference)) as registry:
        expected = publish(registry, EARLIER), publish(registry, FILES)
    for step in range(steps):
        backend, filler = Backend(disk / str(step)), disk / "filler"

        @contextmanager
        def little_room(step: int = step, filler: Path = filler) -> Iterator[None]:
            room = os.statvfs(disk)
            with filler.open("wb") as stream:
                stream.write(b"\0" * (room.f_bavail * room.f_frsize - step * room.f_frsize))
            try:
                yield
            finally:
                filler.unlink()

        found = try_once(backend, expected, little_room(), StoreFull)
        full += 1
        # The draft itself may be what finds no room: that error is the stage's, not the registry's.
        wrong += [f"with room for {step} pages: {one}" for one in found if "ended with OSError(28" not in one]
        subprocess.run(["rm", "-rf", str(backend.home)], check=True)
    return {"disks filled": full, "wrong": wrong}


def small_disk(steps: int) -> dict[str, Any]:
    """`filled` on a tmpfs of 4 MB in a mount namespace of its own, where that is allowed."""
    with TemporaryDirectory() as folder:
        mount = f"mount -t tmpfs -o size=4m none {folder}"
        allowed = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode == 0
        if not allowed:
            return {"disks filled": 0, "mounting": "not allowed here", "wrong": []}
        command = f'{mount} && exec "$@" --inside {folder} --steps {steps}'
        module = [sys.executable, "-m", "tests.reliability.faults"]
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", command, "sh", *module], capture_output=True, text=True
        )
        if not done.stdout:
            return {"disks filled": 0, "wrong": [done.stderr]}
        report: dict[str, Any] = json.loads(done.stdout)
        return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice.add_arguments(parser)
    parser.add_argument("--steps", type=int, default=120, help="degrees to which a small disk is filled")
    parser.add_argument("--stride", type=int, default=1, help="only every nth call fails")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    if given.inside is not None:
        print(json.dumps(filled(given.inside, given.steps)))
        return 0
    with choice.chosen(given) as new_backend:
        parts = {
            "each fault": every_fault(new_backend, given.store, given.stride),
            "order": order(new_backend),
        }
    if given.store == "local":
        parts["small disk"] = small_disk(given.steps)
    choice.report(given, begun, **parts)
    return 1 if any(part["wrong"] for part in parts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
