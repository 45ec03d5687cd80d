"""Drills: backups of a registry in use, and restores, on every combination of databases and stores."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from registry import Artifact, Registry, Waiver
from registry.backup import check, rows, snapshot
from registry.backup import make as making
from registry.backup import restore as restoring
from registry.backup.make import make
from registry.backup.place import Place
from registry.backup.restore import restore
from registry.db import tables as schema
from registry.errors import (
    AlreadyExists,
    Collected,
    Corrupt,
    Held,
    InvalidSetting,
    NotFound,
    RegistryError,
    StoreFull,
)
from registry.gc import collect as gc
from registry.gc.reachability import RetentionPolicy
from tests.registry.backends import Backend, Backends, only
from tests.registry.large import large_registry
from tests.reliability.publish import in_child, killer
from tests.seconds import seconds

Publish = Callable[..., Artifact]
NOTHING_OLD = RetentionPolicy(days=0, history=1)


def dump(registry: Registry) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with registry.database.read() as connection:
        return {
            table.name: [
                tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns))
            ]
            for table in rows.tables()
        }


def blobs(registry: Registry) -> dict[str, int]:
    return {blob.sha256: blob.size for blob in registry.store.stored()}


def in_use(registry: Registry, publish: Publish) -> list[Artifact]:
    """Artifacts, one of them collected, a channel moved twice by hand, decisions, a tenant."""
    made = [publish(registry, name, {"a": name.encode(), "b": b"shared"}) for name in ("one", "two", "old")]
    registry.name(made[0].id, "kept")
    for generation, artifact in enumerate(made[:2]):
        registry.channels.move("team/prod", artifact.id, generation, waiver=Waiver("drill", "ada"))
    registry.gates.record(made[1].id, made[0].id, {"tasks": []}, "fail", {"why": "drill"})
    registry.tenants.add("acme", "team/prod", "ada")
    registry.collect(RetentionPolicy(days=0, history=10), delete=True)
    assert registry.collected(artifact.id for artifact in made) == {made[2].id}
    return made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "backups"), make=True)


def test_a_restore_is_equal_in_every_row_and_every_blob(
    new_backend: Backends, place: Place, publish: Publish
) -> None:
    with new_backend().open() as registry, new_backend().open() as other:
        made = in_use(registry, publish)
        written, count, _ = make(registry, place)
        assert (count, written.blobs, written.artifacts) == (3, 3, 3)
        assert check.backup_problems(place, snapshot.listed(place)) == []
        done = restore(other, place, snapshot.find(place, None))
        assert (done.problems, done.files, done.already) == ([], 3, False)
        assert dump(other) == dump(registry)
        assert blobs(other) == blobs(registry)
        assert other.verify(made[1].id) == []
        assert other.channels.history("team/prod") == registry.channels.history("team/prod")
        [decision] = other.gates.about(made[1].id)
        assert other.gates.problem(decision) is None, "its public key came over"
        with pytest.raises(Collected):
            other.view(made[2].id)
        again = publish(other, "new")
        assert other.ls(limit=1) == [again], "numbers go on after those that came over"


@only("sqlite", "local")
def test_to_postgresql_and_s3_and_back(
    backend: Backend, request: pytest.FixtureRequest, place: Place, publish: Publish, tmp_path: Path
) -> None:
    server, store = request.getfixturevalue("postgresql"), request.getfixturevalue("s3_server")
    far, there = Place(store.fresh(), make=True), Backend(tmp_path / "b", server.fresh(), store.fresh())
    with backend.open() as home, there.open() as team, Registry.open(tmp_path / "c") as back:
        in_use(home, publish)
        make(home, place)
        assert restore(team, place, snapshot.find(place, None)).problems == []
        make(team, far)
        assert check.backup_problems(far, snapshot.listed(far)) == []
        assert restore(back, far, snapshot.find(far, None)).problems == []
        ours, theirs = dump(home), dump(back)
        assert [row for row in ours.pop("leases") if row[0] != making.KEY] == [
            row for row in theirs.pop("leases") if row[0] != making.KEY
        ]
        assert ours == theirs
        assert blobs(home) == blobs(team) == blobs(back)
    server.drop(there.database_url)


@only("local")
def test_what_is_there_is_not_copied_again(registry: Registry, place: Place, publish: Publish) -> None:
    publish(registry, "one")
    first, *copied = make(registry, place)
    assert copied == [1, 3]
    publish(registry, "two", {"a": b"one", "b": b"four"})
    second, *copied = make(registry, place)
    assert copied == [1, 4]
    assert snapshot.listed(place) == [first, second]
    assert snapshot.find(place, first.name[:24]) == first


@only("local")
def test_a_backup_while_others_write_and_collect(
    new_backend: Backends, place: Place, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection marks nothing from the snapshot on until all is copied; writers go on meanwhile."""
    monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 0.0)
    backend = new_backend()
    with backend.open() as registry, backend.open() as writer, new_backend().open() as other:
        made = [publish(registry, f"artifact {number}") for number in range(5)]
        freed, written = [], []

        def meanwhile(at: str) -> None:
            if at in ("backup snapshot taken", "backup copied"):
                done = threading.Thread(target=lambda: work(at))
                done.start()
                done.join(seconds(60))

        def work(at: str) -> None:
            freed.append(writer.collect(NOTHING_OLD, delete=True))
            written.append(publish(writer, f"later {len(written)}"))

        make(registry, place, failpoint=meanwhile)
        assert len(freed) == 6
        assert [one for report in freed for one in report.artifacts] == []
        restore(other, place, snapshot.find(place, None))
        assert {artifact.id for artifact in other.ls()} == {artifact.id for artifact in made}
        assert not [problem for artifact in made for problem in other.verify(artifact.id)]
        lost = registry.collect(NOTHING_OLD, delete=True).artifacts
        assert len(lost) == len(made) + len(written), "afterwards nothing is held"


@only("sqlite", "local")
@pytest.mark.parametrize("point", making.FAILPOINTS)
def test_a_backup_that_was_killed_is_made_again(
    backend: Backend, place: Place, publish: Publish, point: str
) -> None:
    with backend.open() as registry:
        in_use(registry, publish)

    def work() -> None:
        with backend.open() as registry:
            make(registry, place, failpoint=killer(point, 1))

    assert in_child(work) == -signal.SIGKILL
    assert len(place.names()) == (point == "backup written")
    with backend.open() as registry:
        make(registry, place)
        assert check.backup_problems(place, snapshot.listed(place)) == []
        assert not (backend.home / "backup.part").exists()


@only("sqlite", "local")
@pytest.mark.parametrize("point", restoring.FAILPOINTS)
def test_a_restore_that_was_killed_goes_on(
    backend: Backend, place: Place, publish: Publish, point: str, tmp_path: Path
) -> None:
    with backend.open() as registry:
        in_use(registry, publish)
        make(registry, place)
        expected = dump(registry)
    home, made = tmp_path / "restored", snapshot.find(place, None)

    def work() -> None:
        with Registry.open(home) as other:
            restore(other, place, made, failpoint=killer(point, 1))

    assert in_child(work) == -signal.SIGKILL
    with Registry.open(home) as other:
        assert (other.ls() == []) == (point != "restore done"), "all rows or none"
        done = restore(other, place, made)
        assert (done.problems, done.already) == ([], point == "restore done")
        assert dump(other) == expected
    assert not (home / "restore.part").exists()


@only("sqlite", "local")
@pytest.mark.parametrize("point", ["backup copied", "restore copied", "restore rows written"])
def test_a_full_disk_leaves_nothing_half_done(
    backend: Backend, place: Place, publish: Publish, point: str, tmp_path: Path
) -> None:
    def full(at: str) -> None:
        if at == point:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with backend.open() as registry, Registry.open(tmp_path / "other") as other:
        in_use(registry, publish)
        if point == "backup copied":
            with pytest.raises(StoreFull, match="free some space"):
                make(registry, place, failpoint=full)
            assert place.names() == []
        make(registry, place)
        made = snapshot.find(place, None)
        if point != "backup copied":
            with pytest.raises(StoreFull, match="free some space"):
                restore(other, place, made, failpoint=full)
            assert other.ls() == []
        assert restore(other, place, made).problems == []
        assert dump(other) == dump(registry)


@only("local")
@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_a_damaged_file_is_found_and_named(
    new_backend: Backends, place: Place, publish: Publish, damage: str
) -> None:
    with new_backend().open() as registry, new_backend().open() as other:
        made = publish(registry, "one", {"model.bin": b"weights"})
        make(registry, place)
        path = place.blobs.path(made.manifest.files["model.bin"].sha256)  # type: ignore[union-attr]
        path.chmod(0o644)
        path.write_bytes(b"WEIGHTS") if damage == "altered" else path.unlink()
        named = f"file model.bin of dataset {made.id[:12]}"
        [problem] = check.backup_problems(place, snapshot.listed(place))
        assert problem.startswith(named)
        with pytest.raises(Corrupt, match=named):
            restore(other, place, snapshot.find(place, None))
        assert other.ls() == []


@only("sqlite", "local")
def test_a_damaged_artifact_is_not_backed_up_in_silence(
    registry: Registry, place: Place, publish: Publish
) -> None:
    made = publish(registry, "one", {"model.bin": b"weights"})
    path = registry.store.blobs.path(made.manifest.files["model.bin"].sha256)  # type: ignore[union-attr]
    path.chmod(0o644)
    path.write_bytes(b"WEIGHTS")
    with pytest.raises(Corrupt, match=f"file model.bin of dataset {made.id[:12]}"):
        make(registry, place)
    assert place.names() == []


@only("sqlite", "local")
def test_two_backups_at_once(backend: Backend, place: Place, publish: Publish) -> None:
    with backend.open() as first, backend.open() as second:
        publish(first, "one")
        refused: list[RegistryError] = []

        def another(at: str) -> None:
            if at == "backup snapshot taken":
                with pytest.raises(Held, match="stage backup") as error:
                    make(second, place)
                refused.append(error.value)

        make(first, place, failpoint=another)
        assert len(refused) == 1
        make(second, place)
        assert len(place.names()) == 2


@only("sqlite", "local")
def test_what_is_no_place_for_it_is_refused(
    backend: Backend, place: Place, publish: Publish, tmp_path: Path
) -> None:
    with backend.open() as registry, Registry.open(tmp_path / "other") as other:
        with pytest.raises(InvalidSetting, match="give another directory for its backups"):
            Place(str(backend.home), make=True)
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters" / "to-ada").touch()
        for make_it in (True, False):
            with pytest.raises(InvalidSetting, match="is not a place of backups"):
                Place(str(tmp_path / "letters"), make=make_it)
        with pytest.raises(InvalidSetting, match="holds no backups"):
            Place(str(tmp_path / "nowhere"))
        assert not (tmp_path / "nowhere").exists()
        with pytest.raises(NotFound, match="no complete backup"):
            snapshot.find(place, None)
        publish(registry, "one")
        publish(other, "two")
        make(registry, place)
        with pytest.raises(InvalidSetting, match="backups of another registry"):
            make(other, place)
        with pytest.raises(AlreadyExists, match="not empty"):
            restore(other, place, snapshot.find(place, None))


@only("sqlite", "local")
@pytest.mark.parametrize("change", [{"schema_version": schema.VERSION + 1}, {"format": 2}, {"artifacts": 7}])
def test_a_manifest_that_is_newer_or_changed(
    registry: Registry, place: Place, publish: Publish, change: dict[str, int]
) -> None:
    publish(registry, "one")
    made, *_ = make(registry, place)
    assert place.folder is not None
    path = place.folder / "snapshots" / f"{made.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    kind, words = (Corrupt, "was changed") if "artifacts" in change else (InvalidSetting, "or a newer one")
    with pytest.raises(kind, match=words):
        snapshot.find(place, None)


@only("sqlite", "local")
def test_the_signing_key_goes_along_only_when_asked(
    backend: Backend, place: Place, publish: Publish, tmp_path: Path
) -> None:
    with backend.open() as registry:
        in_use(registry, publish)
        without, *_ = make(registry, place)
        with_key, *_ = make(registry, place, with_key=True)
    assert (without.has_key, with_key.has_key) == (False, True)
    secret = (backend.home / "keys/signing.pem").read_bytes()
    for made, folder in ((without, "a"), (with_key, "b")):
        with Registry.open(tmp_path / folder) as other:
            restoring.restore(other, place, made)
        held = tmp_path / folder / "keys/signing.pem"
        assert (held.exists() and held.read_bytes() == secret) == made.has_key
    assert (tmp_path / "b/keys/signing.pem").stat().st_mode & 0o777 == 0o600


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    home, place = tmp_path / "home", str(tmp_path / "backups")
    large_registry(home, 260, channels=2)
    monkeypatch.setenv("TUNELINE_HOME", str(home))
    say = partial(_say, capsys)
    code, made = say("backup", place)
    assert (code, made["artifacts"], made["copied"]["files"]) == (0, 260, made["blobs"])
    assert [one["name"] for one in say("backup", "ls", place)[1]] == [made["name"]]
    assert say("backup", "verify", place) == (0, {"snapshots": [made["name"]], "problems": []})
    code, done = say("restore", place, "--to", str(tmp_path / "new"))
    assert (code, done["problems"], done["copied"]) == (0, [], made["blobs"])
    with Registry.open(home) as ours, Registry.open(tmp_path / "new") as theirs:
        assert dump(ours) == dump(theirs)
    assert say("restore", place, "--snapshot", "1999")[0] == 3
    assert say("backup", str(home))[0] == 3


def _say(capsys: Any, *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)
