from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update

from registry import Registry, processes
from registry.db.engine import Database
from registry.db.tables import leases as table
from registry.errors import Conflict, Held
from registry.leases import NO_WAIT, Leases, Patience
from registry.processes import ProcessId
from tests.registry.backends import Backend
from tests.seconds import seconds

KEY = "a" * 64


@pytest.fixture(params=["sqlite-local", "postgresql-local"])
def combination(request: pytest.FixtureRequest) -> str:
    return str(request.param)  # leases know no store


@pytest.fixture
def database(registry: Registry) -> Database:
    return registry.database


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database, seconds=100)


def is_held(leases: Leases) -> bool:
    with leases.if_free(KEY) as free:
        return not free


def change(database: Database, **values: object) -> None:
    with database.write() as connection:
        connection.execute(update(table).where(table.c.key == KEY), values)


def test_a_lease_says_what_its_work_reads(registry: Registry, database: Database) -> None:
    def held() -> tuple[str | None, object]:
        with database.read() as connection:
            row = connection.execute(select(table)).one()
        return row.host and "held", json.loads(row.holds)

    with registry.draft(KEY, "train", holds=["f" * 64, "b" * 64]):
        assert held() == ("held", ["b" * 64, "f" * 64])
    assert held()[0] is None
    with registry.draft(KEY, "train"):
        assert held() == ("held", [])


def test_a_live_holder_is_named(leases: Leases) -> None:
    leases.acquire(KEY, "train")
    with pytest.raises(Conflict, match=f"stage train .* pid {os.getpid()} on host {socket.gethostname()}"):
        leases.acquire(KEY, "train")
    assert is_held(leases)


def test_the_token_only_grows(leases: Leases) -> None:
    tokens = []
    for _ in range(3):
        token = leases.acquire(KEY, "train")
        leases.release(KEY, token)
        tokens.append(token)
    assert tokens == [1, 2, 3]
    assert not is_held(leases)


def test_an_expired_lease_is_taken_over_and_the_old_token_is_dead(leases: Leases, database: Database) -> None:
    old = leases.acquire(KEY, "train")
    change(database, expires=0.0)
    new = leases.acquire(KEY, "train")
    assert new > old
    with pytest.raises(Conflict, match="is lost"):
        leases.renew(KEY, old)
    leases.release(KEY, old)
    leases.renew(KEY, new)


def test_renewing_an_expired_lease_that_nobody_took_is_fine(leases: Leases, database: Database) -> None:
    token = leases.acquire(KEY, "train")
    change(database, expires=0.0)
    leases.renew(KEY, token)
    assert is_held(leases)


def test_a_released_lease_cannot_be_renewed(leases: Leases) -> None:
    token = leases.acquire(KEY, "train")
    leases.release(KEY, token)
    with pytest.raises(Conflict, match="was released"):
        leases.renew(KEY, token)


def test_a_reused_pid_is_not_the_holder(leases: Leases, database: Database) -> None:
    leases.acquire(KEY, "train")
    change(database, pid_started=ProcessId.of().started - 1000)
    assert leases.acquire(KEY, "train") == 2


def test_a_pid_of_another_host_is_believed_until_it_expires(leases: Leases, database: Database) -> None:
    leases.acquire(KEY, "train")
    change(database, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(Conflict, match="on host elsewhere"):
        leases.acquire(KEY, "train")


def test_two_machines_of_one_name_are_two_hosts(
    leases: Leases, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "machine-id").write_text("another\n")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(processes, "_MACHINE", tmp_path / "machine-id")
        leases.acquire(KEY, "train")
        change(database, pid=2**22 + 1)
    with pytest.raises(Conflict, match=f"on host {socket.gethostname()} since"):
        leases.acquire(KEY, "train")


def test_who_waits_gets_the_lease_once_it_is_given_back(leases: Leases) -> None:
    token = leases.acquire(KEY, "train")
    heard: list[tuple[str, float]] = []

    def told(held: Held, waited: float) -> None:
        heard.append((held.holder, waited))
        if len(heard) == 2:
            leases.release(KEY, token)

    assert leases.wait_for(KEY, "train", patience=Patience(60, told)) == token + 1
    assert [waited > 0 for _, waited in heard] == [False, True]
    assert f"pid {os.getpid()} on host {socket.gethostname()} since " in heard[0][0]


def test_patience_ends(leases: Leases) -> None:
    leases.acquire(KEY, "train")
    with pytest.raises(Held, match=r"still being worked on .* after 0 s of waiting \(TUNELINE_WAIT_SECONDS"):
        leases.wait_for(KEY, "train", patience=Patience(0.15))
    with pytest.raises(Held, match=r"is being worked on by pid"):
        leases.wait_for(KEY, "train", patience=NO_WAIT)


HOLDER = """
import sys
from pathlib import PosixPath
from tests.registry.backends import Backend
with {backend!r}.open().draft({key!r}, 'train') as draft:
    print(draft.path, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder_of(backend: Backend, key: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lease until its standard input ends."""
    code = HOLDER.format(backend=backend, key=key)
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_four_wait_for_a_holder_that_is_killed_and_one_after_the_other_gets_it(
    backend: Backend, key: Callable[[str], str]
) -> None:
    waiting, order, busy = threading.Barrier(5), [], threading.Lock()

    def wait() -> None:
        def told(_held: Held, waited: float) -> None:
            if not waited and not order:
                waiting.wait(seconds(60))

        with (
            backend.open() as registry,
            registry.draft(key("x"), "train", patience=Patience(60, told)) as draft,
        ):
            assert busy.acquire(blocking=False), "two have the lease"
            order.append(draft.path.name)
            busy.release()

    with holder_of(backend, key("x")) as holder:
        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        waiting.wait(seconds(60))  # all four know that somebody has it
        holder.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert order == ["2", "3", "4", "5"]


def test_a_killed_holder_is_replaced(backend: Backend, key: Callable[[str], str]) -> None:
    code = (
        "import sys; from pathlib import PosixPath; from tests.registry.backends import Backend\n"
        f"with {backend!r}.open().draft({key('x')!r}, 'train') as draft:\n"
        "    (draft.path / 'checkpoints').mkdir(); (draft.path / 'checkpoints' / 'step').write_text('7')\n"
        "    (draft.path / 'half.bin').write_text('half')\n"
        "    print(draft.path, flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    holder.stdout.readline()
    with backend.open() as registry:
        with pytest.raises(Conflict, match=f"pid {holder.pid}"), registry.draft(key("x"), "train"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
        with registry.draft(key("x"), "train") as draft:
            assert [p.name for p in draft.path.iterdir()] == ["checkpoints"]
            assert (draft.path / "checkpoints" / "step").read_text() == "7"


def test_alive_tells_processes_apart() -> None:
    assert ProcessId.of().is_alive()
    assert not ProcessId(os.getpid(), ProcessId.of().started - 60).is_alive()
    child = subprocess.Popen([sys.executable, "-c", ""])
    started = ProcessId.of(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not started.is_alive(), "a zombie does no work"
    child.wait()
    assert not started.is_alive()
