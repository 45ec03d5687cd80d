from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update

from registry import Artifact, Registry, drafts
from registry.artifacts import BaseReference, Parentage, QuantSpec
from registry.catalog import ResourceUse
from registry.db.engine import now
from registry.db.tables import content_events, leases
from registry.drafts import FAILPOINTS
from registry.errors import (
    Conflict,
    Incompatible,
    InvalidArtifact,
    NotFound,
    RegistryError,
    StoreFailed,
    StoreFull,
)
from tests.registry.backends import Backend, Backends

Publish = Callable[..., Artifact]
Key = Callable[[str], str]
Facts = Callable[..., dict[str, Any]]
FILES = {"a.txt": b"first", "b/c.txt": b"second"}
FLAT = {"a.txt": b"first", "c.txt": b"second"}


def test_a_commit_makes_it_visible_all_at_once(registry: Registry, key: Key, facts: Facts) -> None:
    assert registry.find(key("x")) is None
    with registry.draft(key("x"), "prepare") as draft:
        (draft.path / "a.txt").write_text("a")
        (draft.path / "checkpoints").mkdir()
        (draft.path / "checkpoints" / "big").write_text("never part of it")
        draft.touch()
        made = draft.commit(*facts(config={"n": 1}, metrics={"loss": 0.5}))
        with pytest.raises(InvalidArtifact, match="was already committed as"):
            draft.commit(*facts())
    assert registry.find(key("x")) == made
    assert made.id == made.manifest.id
    assert set(made.manifest.files) == {"a.txt"}
    (run,) = registry.executions(made.id)
    assert (run.seconds, run.peak_bytes, run.key) == (1.5, 1000, key("x"))
    assert not draft.path.exists()


def test_equal_commits_are_one_artifact(registry: Registry, publish: Publish, key: Key) -> None:
    one, two = publish(registry, "one", FILES), publish(registry, "two", FILES)
    assert one.id == two.id
    assert registry.find(key("one")) == registry.find(key("two"))
    assert len(registry.ls()) == 1
    assert [run.key for run in registry.executions(one.id)] == [key("one"), key("two")]


def test_a_key_keeps_its_first_artifact(
    registry: Registry, publish: Publish, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    first = publish(registry, "one", {"a": b"1"})
    assert publish(registry, "one", {"a": b"2"}) == first
    assert registry.ls() == [first]
    assert "was discarded" in caplog.text


def collect(registry: Registry, artifact: Artifact) -> None:
    """Record, as a collection does, that the content is gone."""
    event = {"artifact_id": artifact.id, "action": "collected", "bytes": artifact.size, "at": now()}
    with registry.database.write() as connection:
        connection.execute(insert(content_events), event)


def test_a_key_is_bound_again_once_its_content_was_collected(
    registry: Registry, publish: Publish, key: Key
) -> None:
    first = publish(registry, "one", {"a": b"1"})
    collect(registry, first)
    assert registry.find(key("one")) is None
    second = publish(registry, "one", {"a": b"2"})
    assert registry.find(key("one")) == second != first
    collect(registry, second)
    assert registry.find(key("one")) is None
    assert publish(registry, "one", {"a": b"1"}) == first, "the same content is the same artifact"
    assert registry.find(key("one")) == first
    assert [run.key for run in registry.executions(first.id)] == [key("one")] * 2


def test_content_that_comes_back_under_another_key_is_back_for_both(
    registry: Registry, publish: Publish, key: Key
) -> None:
    made = publish(registry, "one", {"a": b"1"})
    collect(registry, made)
    publish(registry, "two", {"a": b"1"})
    assert registry.find(key("one")) == registry.find(key("two")) == made
    with registry.database.read() as connection:
        events = connection.execute(select(content_events).order_by(content_events.c.sequence)).all()
    assert [(e.artifact_id, e.action, e.bytes) for e in events] == [
        (made.id, "collected", 1), (made.id, "restored", 1)
    ]  # fmt: skip


def test_time_and_place_are_not_part_of_the_id(new_backend: Backends, publish: Publish, facts: Facts) -> None:
    ids = set()
    for number in range(2):
        with new_backend().open() as registry:
            use = ResourceUse(datetime(2026, 1, number + 1, tzinfo=UTC), number)
            ids.add(publish(registry, str(number), FILES, use=use).id)
    assert len(ids) == 1


def test_a_failed_stage_leaves_nothing(registry: Registry, home: Path, key: Key) -> None:
    def stage() -> None:
        with registry.draft(key("x"), "train") as draft:
            (draft.path / "half.bin").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage()
    assert list((home / "drafts").iterdir()) == []
    with registry.draft(key("x"), "train") as draft:
        assert list(draft.path.iterdir()) == []


def test_checkpoints_wait_for_the_same_key_only(
    registry: Registry, home: Path, key: Key, facts: Facts
) -> None:
    def stage() -> None:
        with registry.draft(key("x"), "train") as draft:
            (draft.path / "checkpoints").mkdir()
            (draft.path / "checkpoints" / "step").write_text("50")
            (draft.path / "half.bin").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage()
    assert [p.name for p in (home / "drafts").rglob("*") if p.is_file()] == ["step"]
    with registry.draft(key("y"), "train") as other:
        assert list(other.path.iterdir()) == []
    with registry.draft(key("x"), "train") as again:
        assert [p.name for p in again.path.iterdir()] == ["checkpoints"]
        assert (again.path / "checkpoints" / "step").read_text() == "50"
        (again.path / "done").write_text("done")
        again.commit(*facts())
    assert list((home / "drafts").iterdir()) == []


def test_a_sweep_clears_what_died_here_of_results_that_another_machine_made(
    registry: Registry, home: Path, publish: Publish, key: Key
) -> None:
    publish(registry, "one")
    for name in ("one", "two"):
        (home / "drafts" / key(name) / "1" / "checkpoints").mkdir(parents=True)
    registry.sweep()
    assert [path.name for path in (home / "drafts").iterdir()] == [key("two")], "its checkpoints are of use"


def test_what_may_not_be_removed_keeps_nobody_from_the_result(
    registry: Registry, home: Path, publish: Publish, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that could not begin would leave all runs of a night undone for another user's leftovers."""

    def refused(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    made = publish(registry, "one")
    (home / "drafts" / key("one") / "1").mkdir(parents=True)
    monkeypatch.setattr(drafts, "remove_tree", refused)
    registry.sweep()
    assert registry.find(key("one")) == made


def test_finding_a_result_clears_what_a_crash_after_the_commit_left(
    registry: Registry, home: Path, publish: Publish, key: Key
) -> None:
    made = publish(registry, "one")
    left = home / "drafts" / key("one") / "1" / "checkpoints"
    left.mkdir(parents=True)
    assert registry.find(key("one")) == made
    assert not (home / "drafts" / key("one")).exists()
    with registry.draft(key("one"), "train") as draft:
        assert registry.find(key("one")) == made
        assert draft.path.is_dir(), "a draft that is being worked on is left alone"


def test_a_lost_lease_publishes_nothing(registry: Registry, key: Key, facts: Facts) -> None:
    with registry.draft(key("x"), "train") as late:
        (late.path / "a.txt").write_text("late")
        with registry.database.write() as connection:
            connection.execute(update(leases), {"expires": 0.0})
        with registry.draft(key("x"), "train") as winner:
            with pytest.raises(Conflict, match="is lost"):
                late.touch()
            (winner.path / "a.txt").write_text("winner")
            late.path.mkdir(exist_ok=True)
            (late.path / "a.txt").write_text("late")
            assert (winner.path / "a.txt").read_text() == "winner"
            with pytest.raises(Conflict, match="is lost"):
                late.commit(*facts())
            assert registry.find(key("x")) is None
            won = winner.commit(*facts())
    assert registry.find(key("x")) == won
    assert registry.ls() == [won]


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"loss": float("nan")}},
        {"config": {"path": object()}},
        {"config": {1: "a number as a key"}},
        {"kind": "model"},
        {"kind": "adapter"},
        {"stage_version": 0},
        {"metrics": {"text": "\ud800"}},
    ],
)
def test_facts_that_break_the_rules_are_refused(
    registry: Registry, home: Path, publish: Publish, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArtifact):
        publish(registry, "x", **changes)
    assert registry.ls() == []
    assert [p for p in (home / "blobs").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("bad", ["", "../../etc", "x" * 64, "A" * 64, "a" * 63])
def test_a_key_is_a_digest(registry: Registry, bad: str) -> None:
    with pytest.raises(InvalidArtifact, match="is not a memo key"):
        registry.draft(bad, "train")


def test_parents_must_be_here(registry: Registry, publish: Publish, base: BaseReference) -> None:
    with pytest.raises(NotFound, match="parents ffffffffffff are not in this registry"):
        publish(registry, "x", parents=(Parentage(relation="trained_on", id="f" * 64),))
    calibrated = QuantSpec(method="gptq", calibration_dataset="e" * 64)
    with pytest.raises(NotFound, match="eeeeeeeeeeee"):
        publish(registry, "x", kind="quantized", base=base, quant=calibrated)


def test_a_model_has_the_base_of_its_parents(
    registry: Registry, publish: Publish, base: BaseReference, plain: QuantSpec
) -> None:
    parent = publish(registry, "base", kind="base", base=base, quant=plain)
    relations = (Parentage(relation="adapter", id=parent.id),)
    moved = base.model_copy(update={"revision": "b" * 40})
    with pytest.raises(Incompatible, match="revision: expected bbb"):
        publish(registry, "adapter", kind="adapter", base=moved, quant=plain, parents=relations)
    made = publish(registry, "adapter", kind="adapter", base=base, quant=plain, parents=relations)
    assert [(e.child, e.relation, e.parent) for e in registry.lineage(made.id)] == [
        (made.id, "adapter", parent.id)
    ]


def test_every_byte_is_on_the_disk_before_the_row(
    home: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        seen.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def spy_rename(path: Path, target: Path) -> Path:
        seen.append(("rename", f"{path} {target}"))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    with Registry.open(home, failpoint=lambda point: seen.append(("point", point))) as registry:
        publish(registry, "x", FILES)
    row = seen.index(("point", "rows written"))
    for content in FILES.values():
        name = hashlib.sha256(content).hexdigest()
        folder = home / "blobs" / name[:2]
        (moved,) = [
            i for i, (what, of) in enumerate(seen) if what == "rename" and of.endswith(f"{folder / name}")
        ]
        scratch = seen[moved][1].split(" ")[0]
        assert seen.index(("fsync", scratch)) < moved
        assert moved < seen.index(("fsync", str(folder)), moved) < row
        assert seen.index(("fsync", str(home / "blobs"))) < row
    points = [of for what, of in seen if what == "point"]
    assert list(dict.fromkeys(points)) == list(FAILPOINTS)


def _count_and_fail(monkeypatch: pytest.MonkeyPatch, fail_at: int, code: int) -> Iterator[int]:
    """Make the `fail_at`-th file operation fail; yields how many there were, when asked at the end."""
    done = 0

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done - 1 == fail_at:
                raise OSError(code, os.strerror(code), "the file")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in (
        (os, "fsync"), (os, "link"), (os, "open"), (hashlib, "file_digest"), (shutil, "copyfile"),
        (Path, "rename"), (Path, "mkdir"), (Path, "chmod"), (Path, "lstat"), (Path, "rmdir"),
    ):  # fmt: skip
        wrap(owner, name)
    while True:
        yield done


def test_an_error_at_any_file_operation_leaves_nothing_half_done(
    tmp_path: Path, publish: Publish, key: Key
) -> None:
    with Registry.open(tmp_path / "reference") as registry:
        expected = publish(registry, "x", FLAT).id
    failed, number, operations = 0, 0, 1
    while number < operations:
        code, kind = ((errno.ENOSPC, StoreFull), (errno.EIO, StoreFailed))[number % 2]
        home = tmp_path / str(number)
        with Registry.open(home) as registry:
            with pytest.MonkeyPatch.context() as patch:
                counter = _count_and_fail(patch, number, code)
                next(counter)
                try:
                    publish(registry, "x", FLAT)
                    error = None
                except RegistryError as raised:
                    error = raised
                operations = max(operations, next(counter))
            if error is not None:
                failed += 1
                assert isinstance(error, kind), (number, error)
                assert "nothing was recorded" in str(error)
                assert registry.ls() == []
                assert registry.find(key("x")) is None
                assert list((home / "drafts").rglob("*.txt")) == []
            assert publish(registry, "x", FLAT).id == expected
            assert registry.verify(expected) == []
        number += 1
    assert failed > 20


@pytest.mark.parametrize("point", FAILPOINTS)
@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreFailed)])
def test_an_error_at_any_point_leaves_nothing_half_done(
    backend: Backend, publish: Publish, key: Key, point: str, code: int, kind: type[RegistryError]
) -> None:
    def fail(at: str) -> None:
        if at == point:
            raise OSError(code, os.strerror(code))

    with backend.open(failpoint=fail) as registry, pytest.raises((kind, OSError)):
        publish(registry, "x", FILES)
    with backend.open() as registry:
        assert (registry.find(key("x")) is None) == (point != "committed")
        made = publish(registry, "x", FILES)
        assert registry.verify(made.id) == []
        assert list((backend.home / "drafts").iterdir()) == []


def test_a_full_database_publishes_nothing(home: Path, publish: Publish, key: Key) -> None:
    with Registry.open(home) as registry:
        pages = 0
        with registry.database.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        registry.close()
        limit = lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages}")  # noqa: E731
        event.listen(registry.database.engine, "connect", limit)
        with pytest.raises(StoreFull, match="free some space"):
            publish(registry, "x", FILES, config={"large": "x" * 100_000})
        assert registry.find(key("x")) is None
        assert list((home / "drafts").iterdir()) == []
    with Registry.open(home) as registry:
        made = publish(registry, "x", FILES, config={"large": "x" * 100_000})
        assert registry.verify(made.id) == []


FULL_DISK = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from registry import Registry
from registry.artifacts import StageResult, memo_key
from registry.catalog import ResourceUse
from registry.errors import StoreFull
home = Path(sys.argv[1])
result = StageResult(kind="dataset", stage="prepare", stage_version=1)
use = ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 1, 1)
made = []
with Registry.open(home) as registry:
    for number in range(1000):
        key = memo_key("prepare", 1, {"n": number}, {}, {})
        try:
            with registry.draft(key, "prepare") as draft:
                (draft.path / "a").write_bytes(bytes([number % 251]) * 4000 + str(number).encode())
                made.append((key, draft.commit(result, use)))
        except (StoreFull, OSError) as error:
            assert number > 20, number
            failed, said = key, error
            break
    else:
        raise SystemExit("the disk never filled")
    assert isinstance(said, StoreFull) or said.errno == 28, repr(said)
with Registry.open(home) as registry:
    assert registry.find(failed) is None
    assert len(registry.ls(limit=1000)) == len(made)
    for key, artifact in made:
        assert registry.find(key) == artifact
        assert registry.verify(artifact.id) == []
print(len(made), type(said).__name__)
"""


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=2500k none {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system in a namespace is not allowed here")
    command = f'{mounted} && exec "{sys.executable}" - "{disk}/home"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], input=FULL_DISK, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
