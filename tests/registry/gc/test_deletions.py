"""Publications of the same content while a collection deletes it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import insert, select

from registry import Artifact, Registry, deletions, drafts
from registry.db import tables as schema
from registry.errors import StoreFailed
from registry.gc import collect as gc
from registry.store.store import Store
from tests.registry import servers
from tests.registry.backends import Backend, only
from tests.registry.gc.collecting import Publish, blobs, sweep
from tests.reliability.gc import lost
from tests.reliability.publish import answer, in_background, in_child, killer
from tests.seconds import seconds


def published_while_swept(registry: Registry, backend: Backend, publish: Publish) -> Artifact:
    """A publication whose files are swept between their storing and its commit."""
    swept: list[int] = []

    def sweep_once(point: str) -> None:
        if point == "stored" and not swept:
            swept.append(sweep(registry).leftovers.count)

    with backend.open(failpoint=sweep_once) as publishing:
        made = publish(publishing, "one")
    assert swept == [1]
    return made


def test_a_publication_puts_back_what_was_swept_meanwhile(
    registry: Registry, backend: Backend, publish: Publish
) -> None:
    made = published_while_swept(registry, backend, publish)
    assert registry.verify(made.id) == []


@only("sqlite", "local")
def test_without_the_check_it_would_be_lost(
    registry: Registry, backend: Backend, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "missing", lambda *_: [])
    made = published_while_swept(registry, backend, publish)
    assert [problem.kind for problem in registry.verify(made.id)] == ["missing"]
    assert lost(registry) != []


class TestDeletions:
    """Of the same content a publication comes between the batch's mark and its deletions."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deletions, "MARK_SECONDS", 3.0)

    def restored(
        self, registry: Registry, backend: Backend, publish: Publish, first: Callable[[], Any]
    ) -> tuple[Artifact, bool]:
        """Collects an artifact, well or not. Once its deletions begin, calls `first`, has a thread make it
        again, and goes on when that is done or waits. Returns it, and whether the thread waited."""
        made, waiting = publish(registry, "one"), threading.Event()

        def again() -> None:
            with backend.open() as other:
                publish(other, "one")

        thread = threading.Thread(target=again)
        really = Store.delete

        def late(store: Store, digests: Any) -> None:
            first()
            thread.start()
            deadline = time.monotonic() + seconds(30)
            while thread.is_alive() and not waiting.is_set() and time.monotonic() < deadline:
                thread.join(0.02)
            really(store, digests)

        noticed = mock.patch.object(drafts.log, "warning", side_effect=lambda *_: waiting.set())
        with backend.open() as sweeping, mock.patch.object(Store, "delete", late), noticed:
            with suppress(StoreFailed):
                sweep(sweeping)
            thread.join()
        return made, waiting.is_set()

    def test_a_publication_waits_and_stores_anew(
        self, registry: Registry, backend: Backend, publish: Publish
    ) -> None:
        made, waited = self.restored(registry, backend, publish, lambda: None)
        assert waited
        assert registry.verify(made.id) == []

    @only("postgresql")
    def test_also_when_every_connection_breaks(
        self, registry: Registry, backend: Backend, publish: Publish, postgresql: servers.PostgreSQL
    ) -> None:
        made, waited = self.restored(registry, backend, publish, lambda: broken(postgresql, backend))
        assert registry.verify(made.id) == []
        assert waited

    @only("postgresql", "local")
    def test_a_connection_that_breaks_meanwhile_leaves_no_mark(
        self, registry: Registry, backend: Backend, publish: Publish, postgresql: servers.PostgreSQL
    ) -> None:
        publish(registry, "one")
        unmark = deletions.unmark

        def on_a_broken_connection(*arguments: Any) -> None:
            broken(postgresql, backend)
            unmark(*arguments)

        tries = iter((on_a_broken_connection, unmark))
        with mock.patch.object(deletions, "unmark", side_effect=lambda *given: next(tries)(*given)):
            sweep(registry)
        assert blobs(registry) == set()
        assert self.marks(registry) == []

    @only("sqlite", "local")
    def test_without_marks_it_would_be_lost(
        self, registry: Registry, backend: Backend, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deletions, "marked", lambda *_: set())
        made, _ = self.restored(registry, backend, publish, lambda: None)
        assert [problem.kind for problem in registry.verify(made.id)] == ["missing"]

    @only("sqlite")
    def test_kill_9_before_the_deletions(
        self, home: Path, combination: str, backend: Backend, publish: Publish
    ) -> None:
        def collect_and_die() -> None:
            with backend.open(failpoint=killer("gc deleting", 1)) as sweeping:
                sweep(sweeping)

        made = answer(lambda: self.made(backend, publish))
        assert in_child(collect_and_die) == -signal.SIGKILL
        with backend.open() as registry:
            begun = time.monotonic()
            assert self.made(backend, publish) == made
            waited = time.monotonic() - begun
            # What the dead process asked of an object store may still arrive there; on a disk nothing can.
            assert waited > 1 if combination == "sqlite-s3" else waited < seconds(1)
            assert registry.verify(made) == []
            sweep(registry)
            assert blobs(registry) == set()
            assert self.marks(registry) == []

    def made(self, backend: Backend, publish: Publish) -> str:
        with backend.open() as registry:
            return publish(registry, "one").id

    def marks(self, registry: Registry) -> list[str]:
        with registry.database.read() as connection:
            return list(connection.execute(select(schema.deletions.c.host)).scalars())

    @only("sqlite", "local")
    def test_who_dies_after_the_store_was_looked_at_was_seen_before(
        self, backend: Backend, publish: Publish
    ) -> None:
        made = self.made(backend, publish)
        marked, go = multiprocessing.Event(), multiprocessing.Event()

        def hook(point: str) -> None:
            if point == "gc deleting":
                marked.set()
                go.wait(seconds(30))

        delete = Store.delete

        def delete_and_die(store: Store, digests: Any) -> None:
            delete(store, digests)
            os.kill(os.getpid(), signal.SIGKILL)

        def collect_and_die() -> None:
            with backend.open(failpoint=hook) as sweeping, mock.patch.object(Store, "delete", delete_and_die):
                sweep(sweeping)

        child = in_background(collect_and_die)
        assert marked.wait(seconds(30))
        really, ended = Store.missing, list[int]()

        def look(store: Store, entries: Any) -> Any:
            found = really(store, entries)
            if not ended:
                assert found == []
                go.set()
                ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return found

        with mock.patch.object(Store, "missing", look):
            assert self.made(backend, publish) == made
        assert ended == [-signal.SIGKILL]
        with backend.open() as registry:
            assert registry.verify(made) == []

    @only("sqlite", "local")
    def test_two_collections_at_once_leave_each_other_their_marks(
        self, registry: Registry, backend: Backend, publish: Publish
    ) -> None:
        def another() -> None:
            with backend.open() as other:
                assert sweep(other).blobs.count == 0

        made, waited = self.restored(registry, backend, publish, another)
        assert waited
        assert registry.verify(made.id) == []

    @only("sqlite", "local")
    def test_a_mark_of_another_machine_counts_until_it_runs_out(
        self, registry: Registry, publish: Publish
    ) -> None:
        made = publish(registry, "one")
        sweep(registry)
        (blob,) = made.manifest.files.values()
        theirs = {"host": "elsewhere", "pid": 1, "pid_started": 0.0, "expires": time.time() + seconds(1)}
        with registry.database.write() as connection:
            connection.execute(insert(schema.deletions), {"sha256": blob.sha256, **theirs})
            assert deletions.mark(connection, [blob.sha256], False)[0] == []
        begun = time.monotonic()
        assert publish(registry, "one") == made
        assert time.monotonic() - begun > 0.5
        assert registry.verify(made.id) == []
        assert self.marks(registry) == ["elsewhere"]
        sweep(registry)
        assert self.marks(registry) == []

    @only("local")
    def test_who_stood_still_for_too_long_deletes_nothing(
        self, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(registry, "one")
        monkeypatch.setattr(deletions, "BEGIN_SECONDS", -1.0)
        with pytest.raises(StoreFailed, match="nothing that is needed was deleted"):
            sweep(registry)
        assert len(blobs(registry)) == 1
        assert self.marks(registry) == []
        monkeypatch.undo()
        monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 0.0)
        sweep(registry)
        assert blobs(registry) == set()


def broken(server: servers.PostgreSQL, backend: Backend) -> None:
    """The server hangs up on whoever uses the registry's database."""
    server.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{servers.name_of(backend.database_url or '')}'"
    )
