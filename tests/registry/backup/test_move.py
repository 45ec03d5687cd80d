"""Drills: a SQLite registry moves to a PostgreSQL server and an object store, also after it was killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from registry import Waiver
from registry.backup import move as moving
from registry.errors import AlreadyExists, Conflict, InvalidArtifact
from tests.registry.backends import Backend, only
from tests.registry.backup.test_backup import Publish, blobs, dump, in_use
from tests.reliability.publish import in_child, killer


@only("sqlite", "local")
def test_to_servers_by_the_command(
    backend: Backend, request: pytest.FixtureRequest, publish: Publish,
    monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    server, store = request.getfixturevalue("postgresql"), request.getfixturevalue("s3_server")
    there = Backend(backend.home, server.fresh(), store.fresh())
    assert there.database_url is not None
    assert there.store_url is not None
    monkeypatch.setenv("TUNELINE_HOME", str(backend.home))
    assert main(["registry", "move"]) == 3, "it has to be told where to"
    monkeypatch.setenv("TUNELINE_DATABASE_URL", there.database_url)
    monkeypatch.setenv("TUNELINE_STORE_URL", there.store_url)
    with backend.open() as old:
        made = in_use(old, publish)
        expected, files = dump(old), blobs(old)
        capsys.readouterr()
        assert main(["registry", "move", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["problems"], said["files"], said["already"]) == ([], 3, False)
        assert dump(old) == expected, "the old one can be read"
        with pytest.raises(InvalidArtifact, match=f"moved to postgresql://.* and {there.store_url}"):
            old.name(made[0].id, "late")  # it was open before
    with there.open() as new:
        assert (dump(new), blobs(new)) == (expected, files)
        new.channels.move("team/prod", made[0].id, 2, waiver=Waiver("goes on", "ada"))
    assert main(["registry", "move"]) == 3, "the new one is in use"
    server.drop(there.database_url)


def beside(backend: Backend, folder: Path) -> Backend:
    """Another database and another store of the same home."""
    (folder / "store").mkdir()
    return Backend(backend.home, f"sqlite:///{folder}/new.db", f"file://{folder}/store")


@only("sqlite", "local")
@pytest.mark.parametrize("point", moving.FAILPOINTS)
def test_a_move_that_was_killed_goes_on(
    backend: Backend, publish: Publish, point: str, tmp_path: Path
) -> None:
    there = beside(backend, tmp_path)
    with backend.open() as old:
        in_use(old, publish)
        expected = dump(old)

    def work() -> None:
        with backend.open() as old, there.open() as new:
            moving.move(old, new, "the new place", failpoint=killer(point, 1))

    assert in_child(work) == -signal.SIGKILL
    with backend.open() as old, there.open() as new:
        with pytest.raises(InvalidArtifact, match="moved to the new place"):
            publish(old, "late")
        done = moving.move(old, new, "the new place")
        assert (done.problems, done.already) == ([], point == "move done")
        assert (dump(new), blobs(new)) == (expected, blobs(old))


@only("sqlite", "local")
def test_what_is_in_use_is_not_moved(backend: Backend, publish: Publish, tmp_path: Path) -> None:
    with backend.open() as old, beside(backend, tmp_path).open() as new:
        publish(old, "one")
        with old.draft("a" * 64, "train"), pytest.raises(Conflict, match="stage train is running"):
            moving.move(old, new, "the new place")
        publish(new, "another")
        with pytest.raises(AlreadyExists, match="not empty"):
            moving.move(old, new, "the new place")
        publish(old, "two")  # nothing was closed
