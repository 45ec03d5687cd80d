"""From a stage's output directory to an artifact: all at once, or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from registry import catalog, content, deletions
from registry.artifacts import FileEntry, Manifest, StageResult
from registry.compat.base_reference import check
from registry.db.engine import Database
from registry.errors import InvalidArtifact, NotFound, RegistryError, StoreFailed
from registry.leases import NO_WAIT, Leases, Patience
from registry.store.files import FoundFile, remove_tree, scan, sync_directory, wrap_os_errors
from registry.store.local import Failpoint
from registry.store.store import Store

log = logging.getLogger("tuneline.registry")

CHECKPOINTS = "checkpoints"
_SAME_BASE = frozenset({"adapter", "merge", "quantized", "finetune"})

_ROUNDS = 5
_PAUSE = 0.05

_PER_FILE = ("staged", "synced", "renamed", "directory synced")
FAILPOINTS = ("leased", "draft ready", "scanned", *_PER_FILE, "stored", "rows written", "committed")
"""The failpoints of a publication, in order; those from "staged" to "directory synced" once per new file.

With an object store, "uploaded" comes between the last "directory synced" and "stored", once per new blob.
"""


@dataclass(frozen=True)
class DraftContext:
    """What a draft and a collection work with; `root` is where drafts are."""

    root: Path
    database: Database
    store: Store
    leases: Leases
    failpoint: Failpoint


class Draft:
    """A directory to write into, under a lease on its key; `commit` makes an artifact of it."""

    def __init__(self, context: DraftContext, key: str, token: int) -> None:
        self._context = context
        self._key = key
        self._token = token
        self.committed: catalog.Artifact | None = None
        # Each holder has its own path: a stage that outlived its flow cannot write into a successor's draft.
        self.path = context.root / key / str(token)

    def touch(self) -> None:
        """Renew the lease. Raises Conflict when it is lost: then stop working."""
        self._context.leases.renew(self._key, self._token)

    def commit(self, result: StageResult, use: catalog.ResourceUse) -> catalog.Artifact:
        """Publish the files below `path` but for `checkpoints/`; returns what the key stands for from now on.

        Raises InvalidArtifact for files or facts that break the rules, NotFound for an unknown parent,
        Collected for one whose files are gone, Incompatible for one with another base, StoreFull or
        StoreFailed for the disk, Conflict when the lease was lost. After any of these nothing is visible.
        """
        if self.committed is not None:
            raise InvalidArtifact(
                f"this draft was already committed as {self.committed.id[:12]}; open another one"
            )
        self.touch()
        with wrap_os_errors(f"publishing the result of stage {result.stage}"):
            files = scan(self.path, leave_out=CHECKPOINTS)
        self._context.failpoint("scanned")
        manifest = _manifest(result, {name: file.entry for name, file in files.items()})
        artifact_id = manifest.id
        self._check_parents(manifest)
        alive = self._context.leases.kept_alive(self._key, self._token)
        with wrap_os_errors(f"publishing the result of stage {result.stage}"), alive:
            artifact = self._publish(files.values(), manifest, artifact_id, use)
        self.committed = artifact
        if artifact.id != artifact_id:
            dropped = "key %s already belongs to artifact %s; this run's different result %s was discarded"
            log.warning(dropped, self._key[:12], artifact.id[:12], artifact_id[:12])
        self._context.failpoint("committed")
        return artifact

    def _check_parents(self, manifest: Manifest) -> None:
        needed = _needed(manifest)
        with self._context.database.read() as connection:
            parents = {parent_id: catalog.by_id(connection, parent_id) for parent_id in needed}
        missing = [parent_id[:12] for parent_id, artifact in parents.items() if artifact is None]
        if missing:
            raise NotFound(f"parents {', '.join(missing)} are not in this registry; publish them first")
        for parent in manifest.parents:
            artifact = parents[parent.id]
            if artifact is not None and parent.relation in _SAME_BASE and manifest.base is not None:
                check(manifest.base, artifact.manifest)

    def _publish(
        self, files: Collection[FoundFile], manifest: Manifest, artifact_id: str, use: catalog.ResourceUse
    ) -> catalog.Artifact:
        scratch = self.path.with_name(f"{self._token}.incoming")
        scratch.mkdir(exist_ok=True)
        lacking = {file.entry for file in files}
        parents = _needed(manifest)
        for _ in range(_ROUNDS):
            self._context.store.put([file for file in files if file.entry in lacking], scratch)
            self._context.failpoint("stored")
            with self._context.database.write() as connection:
                self._context.leases.guard(connection, self._key, self._token)
                content.require(connection, parents)
                # In this order, what is neither marked nor missing stays for this artifact.
                marked = deletions.marked(connection, self._context.store.is_shared)
                going = {file.entry for file in files if file.entry.sha256 in marked}
                lacking = going.union(self._context.store.missing(file.entry for file in files))
                if not lacking:
                    artifact = catalog.publish(connection, manifest, artifact_id, self._key, use)
                    self._context.failpoint("rows written")
                    return artifact
            self._await_deletion({entry.sha256 for entry in going})
        raise StoreFailed(
            f"artifact {artifact_id[:12]}: blob {min(e.sha256 for e in lacking)[:12]} was stored {_ROUNDS} "
            "times and was gone each time; nothing was recorded: find out what deletes from the store, then "
            "run "
            "the same command again"
        )

    def _await_deletion(self, digests: set[str]) -> None:
        """Wait until no collection deletes these blobs any more; a mark that nobody takes away runs out."""
        if digests:
            log.warning("waiting for a collection, which deletes files that this result has, too")
        while digests:
            time.sleep(_PAUSE)
            with self._context.database.read() as connection:
                digests = digests & deletions.marked(connection, self._context.store.is_shared)


@contextmanager
def opened(
    context: DraftContext, key: str, stage: str, holds: Iterable[str], patience: Patience = NO_WAIT
) -> Iterator[Draft]:
    """A draft under a lease on `key`; checkpoints that the same key's last draft left are in it.

    The lease keeps the content of the artifacts in `holds`. Raises Held when a live process has the lease for
    longer than patience lasts.
    """
    token = context.leases.wait_for(key, stage, holds, patience)
    try:
        context.failpoint("leased")
        draft = Draft(context, key, token)
        try:
            with wrap_os_errors(f"draft of stage {stage}"):
                _make_ready(draft.path)
            context.failpoint("draft ready")
            yield draft
        finally:
            _clear(draft.path, keep_checkpoints=draft.committed is None)
    finally:
        try:
            context.leases.release(key, token)
        except RegistryError as error:
            log.warning("the lease on key %s stays until this process ends: %s", key[:12], error)


def sweep(context: DraftContext, key: str) -> None:
    """Remove what a process that died after its commit left behind, as far as this user may."""
    left = context.root / key
    if left.is_dir():
        with context.leases.if_free(key) as free:
            if free:
                with suppress(OSError):  # what another user left is no reason not to use the result
                    remove_tree(left)


def _make_ready(path: Path) -> None:
    path.mkdir(parents=True)
    earlier = sorted(
        (p for p in path.parent.iterdir() if p.name.isdigit() and p != path), key=lambda p: int(p.name)
    )
    for old in reversed(earlier):
        if (old / CHECKPOINTS).is_dir() and not (old / CHECKPOINTS).is_symlink():
            (old / CHECKPOINTS).rename(path / CHECKPOINTS)
            sync_directory(path)
            break
    for other in path.parent.iterdir():
        if other != path:
            remove_tree(other)


def _clear(path: Path, keep_checkpoints: bool) -> None:
    with suppress(OSError):
        remove_tree(path.with_name(f"{path.name}.incoming"))
        if keep_checkpoints and (path / CHECKPOINTS).is_dir():
            for other in path.iterdir():
                if other.name != CHECKPOINTS:
                    remove_tree(other)
        else:
            remove_tree(path)
            path.parent.rmdir()


def _needed(manifest: Manifest) -> list[str]:
    """Ids of the artifacts without which this one cannot be."""
    needed = [parent.id for parent in manifest.parents]
    if manifest.quant is not None and manifest.quant.calibration_dataset is not None:
        needed.append(manifest.quant.calibration_dataset)
    return needed


def _manifest(result: StageResult, files: dict[str, FileEntry]) -> Manifest:
    try:
        manifest = Manifest(**vars(result), files=files)
        again = Manifest.model_validate_json(manifest.model_dump_json())
        if again.id != manifest.id:
            raise ValueError("config, metrics or quant hold values that JSON cannot represent exactly")
        return manifest
    except (ValueError, TypeError) as error:
        message = str(error)
        if isinstance(error, ValidationError):
            problems = (f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors())
            message = "; ".join(problems)
        raise InvalidArtifact(f"the result of stage {result.stage} cannot be published: {message}") from error
