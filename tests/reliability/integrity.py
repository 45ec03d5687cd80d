"""Does `verify` find every damage? `python -m tests.reliability.integrity --store s3`.

Every byte of small files is changed, one at a time, and random bytes of a large one; files are added, removed
or renamed, swapped, cut, lengthened and replaced by links, in blobs, in the cache of an object store, in its
objects and in views. Each time `verify` must name the file, and find nothing once that is undone. Prints
one JSON document; exits with 1 if anything went unseen, or an intact artifact was blamed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session

from registry import Artifact, Registry
from registry.artifacts import StageResult, memo_key
from registry.catalog import ResourceUse
from tests.registry.backends import Backend
from tests.reliability import choice

SMALL = {
    "config.json": b'{"rank": 16}',
    "nested/tokens.txt": b"every byte of this counts",
    "nested/one": b"1",
}
LARGE = "weights.bin"

Damage = Callable[[], Any]
Damages = Iterator[tuple[str, str, Damage]]
"""What is done, the file that it is done to, and how."""


def published(registry: Registry, large: int, seed: int) -> tuple[Artifact, dict[str, bytes]]:
    """An artifact with small files and one of `large` bytes."""
    files = {**SMALL, LARGE: random.Random(seed).randbytes(large)}
    with registry.draft(memo_key("prepare", 1, {}, {}, {}), "prepare") as draft:
        for name, content in files.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(content)
        made = draft.commit(
            StageResult(kind="dataset", stage="prepare", stage_version=1),
            ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 0),
        )
    return made, files


def flips(files: dict[str, bytes], of_large: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """File, position and bit: every byte of the small files, so many random ones of the large."""
    choose = random.Random(seed)
    for name in SMALL:
        for position in range(len(files[name])):
            yield name, position, 1 << choose.randrange(8)
    for _ in range(of_large):
        yield LARGE, choose.randrange(len(files[LARGE])), 1 << choose.randrange(8)


def changed(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Undo whatever the block does to a file or directory, inode and permissions included."""
    aside = path.with_name(".aside")
    path.parent.chmod(0o755)
    if path.is_dir():
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o755)
    path.rename(aside)
    copied = shutil.copytree if aside.is_dir() else shutil.copyfile
    copied(aside, path)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        aside.rename(path)


def damages_of(path: Path, other: Path, outside: Path) -> Iterator[tuple[str, Damage]]:
    """What may happen to one file of a directory; `other` is a second one, `outside` a copy elsewhere."""

    def replace(make: Callable[[], Any]) -> None:
        path.unlink()
        make()

    content = path.read_bytes()
    shutil.copyfile(path, outside)
    yield "remove", path.unlink
    yield "rename", lambda: path.rename(path.with_name("renamed"))
    yield "truncate", lambda: path.write_bytes(content[:-1])
    yield "empty", lambda: path.write_bytes(b"")
    yield "lengthen", lambda: path.write_bytes(content + b"x")
    yield "swap", lambda: path.write_bytes(other.read_bytes())
    yield "symlink", lambda: replace(lambda: path.symlink_to(outside))
    yield "symlink to nothing", lambda: replace(lambda: path.symlink_to("nothing"))
    yield "directory", lambda: replace(path.mkdir)
    yield "FIFO", lambda: replace(lambda: os.mkfifo(path))


class Trial:
    """Does damage to one artifact and asks `verify` after each."""

    def __init__(self, registry: Registry, artifact: Artifact) -> None:
        self.registry, self.artifact = registry, artifact
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.intact("at first")

    def intact(self, when: str) -> None:
        problems = [str(one) for one in self.registry.verify(self.artifact.id)]
        if problems:
            self.wrong.append(f"blamed {when}: {problems}")

    def done(self, what: str, file: str | None) -> None:
        """Count a damage; `file` is what verify must name, if one is."""
        self.seen[what] += 1
        problems = self.registry.verify(self.artifact.id)
        if not problems or (file is not None and file not in {one.file for one in problems}):
            self.wrong.append(f"{what} of {file}: verify says {[str(one) for one in problems]}")

    def flip(self, what: str, files: dict[str, bytes], path: Callable[[str], Path], given: Any) -> None:
        """Change bytes of the files where `path` says they are, one at a time, in place."""
        for name, position, bit in flips(files, given.random_bytes, given.seed):
            with path(name).open("r+b") as stream:
                stream.seek(position)
                stream.write(changed(files[name], position, bit)[position : position + 1])
                stream.flush()
                self.done(f"{what}: byte changed", name)
                stream.seek(position)
                stream.write(files[name][position : position + 1])
        self.intact(f"after the bytes of {what}")

    def mistreat(self, what: str, path: Callable[[str], Path], outside: Path) -> None:
        """Everything but changed bytes, to each small file."""
        for name in SMALL:
            other = path(next(one for one in SMALL if one != name))
            with kept(path(name)):
                kinds = [kind for kind, _ in damages_of(path(name), other, outside)]
            for kind in kinds:
                with kept(path(name)):
                    dict(damages_of(path(name), other, outside))[kind]()
                    self.done(f"{what}: {kind}", name)
                    path(name).with_name("renamed").unlink(missing_ok=True)
        self.intact(f"after mistreating {what}")

    def mistreat_view(self, view: Path, outside: Path) -> None:
        """What can be done to a directory as a whole."""
        outside.mkdir(exist_ok=True)
        whole: dict[str, Damage] = {
            "file added": lambda: (view / "added").write_bytes(b""),
            "hidden file added": lambda: (view / "nested" / ".hidden").write_bytes(b"x"),
            "directory added": (view / "added").mkdir,
            "directory linked": lambda: (view / "added").symlink_to(outside),
            "subdirectory renamed": lambda: (view / "nested").rename(view / "other"),
            "subdirectory linked": lambda: _linked(view / "nested", outside),
            "replaced by a link": lambda: _linked(view, outside),
            "replaced by a file": lambda: (shutil.rmtree(view), view.write_bytes(b"x")),
            "emptied": lambda: (shutil.rmtree(view), view.mkdir()),
        }
        for kind, damage in whole.items():
            with kept(view):
                damage()
                self.done(f"view: {kind}", None)
        self.intact("after mistreating the view")


def _linked(path: Path, outside: Path) -> None:
    copy = outside / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    shutil.rmtree(path)
    path.symlink_to(copy)


def mistreat_objects(trial: Trial, client: Any, url: str, files: dict[str, bytes], given: Any) -> None:
    """Change, cut, lengthen, swap and remove objects behind the registry's back."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for name, content in files.items():
        sha = digest(content)
        at = {"Bucket": bucket, "Key": f"{prefix}/{sha[:2]}/{sha}"}
        put = partial(client.put_object, **at)
        wrong = {"truncated": content[:-1], "lengthened": content + b"x", "emptied": b""}
        wrong["swapped"] = next(c for n, c in SMALL.items() if n != name)
        for kind, body in wrong.items():
            put(Body=body)
            trial.done(f"object: {kind}", name)
        client.delete_object(**at)
        trial.done("object: removed", name)
        client.put_object(**{**at, "Key": at["Key"] + "x"}, Body=content)
        trial.done("object: renamed", name)
        put(Body=content)
    for name, position, bit in flips(files, given.random_bytes, given.seed):
        sha = digest(files[name])
        at = {"Bucket": bucket, "Key": f"{prefix}/{sha[:2]}/{sha}"}
        client.put_object(**at, Body=changed(files[name], position, bit))
        trial.done("object: byte changed", name)
        client.put_object(**at, Body=files[name])
    trial.intact("after mistreating the objects")


def run(backend: Backend, given: argparse.Namespace, client: Any = None) -> dict[str, Any]:
    """All damages in one registry; `client` reaches the objects of one on S3."""
    with backend.open() as registry:
        artifact, files = published(registry, given.large, given.seed)
        trial = Trial(registry, artifact)
        blobs, outside = backend.home / ("cache" if client else "blobs"), backend.home / "outside"
        blob = lambda name: blobs / digest(files[name])[:2] / digest(files[name])  # noqa: E731
        for name in files:
            blob(name).chmod(0o644)
        outside.mkdir()
        what = "cache" if client else "blob"
        trial.flip(what, files, blob, given)
        if client is None:  # what is not in the cache is downloaded, which is no damage
            trial.mistreat(what, blob, outside / "file")
        view = registry.view(artifact.id)
        trial.mistreat("view", lambda name: view / name, outside / "file")
        trial.mistreat_view(view, outside / "folder")
        if client is not None:
            mistreat_objects(trial, client, backend.store_url or "", files, given)
    damages = sum(trial.seen.values())
    found = damages - sum(" of " in one for one in trial.wrong)
    return {
        "damages": damages,
        "found": found,
        "kinds": dict(sorted(trial.seen.items())),
        "wrong": trial.wrong,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice.add_arguments(parser)
    parser.add_argument("--large", type=int, default=2_000_000, help="bytes of the large file")
    parser.add_argument("--random-bytes", type=int, default=1000, help="bytes of it that are changed")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    with choice.chosen(given) as new_backend:
        backend = new_backend()
        client = botocore.session.get_session().create_client("s3") if given.store == "s3" else None
        found = run(backend, given, client)
    choice.report(given, begun, **found)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
