"""What causes each alert, and what ends it. A trouble lasts for as long as its block."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import NamedTuple

import psutil
import yaml

from tests.deploy.drill.gateway import WAIVED
from tests.deploy.drill.processes import TUNELINE, end
from tests.deploy.drill.system import CHANNEL, RECIPE, System
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import until


class Trouble(NamedTuple):
    """`how` and `over` stand in the table of docs/operations.md; `about`: labels of its alerts, where the
    instance `small` stands for the exporter of the small disk."""

    alerts: tuple[str, ...]
    how: str
    over: str
    cause: Callable[[System], AbstractContextManager[None]]
    about: Mapping[str, str] = MappingProxyType({})


@contextmanager
def the_run_is_killed(system: System) -> Iterator[None]:
    own = ("--set", "name=killed", "--set", "promote.channel=pico/killed", "--set", "deploy=null")
    again = (*TUNELINE, "run", RECIPE, *own)
    runs = system.home / "runs"
    before = len(list(runs.glob("*/run.json")))
    started = system.processes.start("killed", *again, first_line=False)
    until(lambda: len(list(runs.glob("*/run.json"))) > before, "the run is recorded", seconds(120))
    run = psutil.Process(started.process.pid)
    for process in [*run.children(recursive=True), run]:
        process.kill()
    end(started.process)
    yield
    system.processes.start("again", *again, first_line=False)


@contextmanager
def the_gate_lacks_items(system: System) -> Iterator[None]:
    system.tuneline("promote", system.merged, "team/gate", *WAIVED)
    assert _verdict(system, system.live, "team/gate", margin=0.001) == "insufficient"
    yield
    system.tuneline("promote", system.live, "team/gate", *WAIVED)


def _verdict(system: System, candidate: str, channel: str, margin: float) -> str:
    """Of a gate that asks that the candidate is worse than what is live by less than the margin."""
    rule = {"task": "routing", "metric": "exact_match", "role": "keep", "against": "live", "margin": margin}
    policy = system.folder / f"policy-{margin}.yaml"
    policy.write_text(yaml.safe_dump({"tasks": [rule]}))
    judged = ("gate", "run", str(policy), "--candidate", candidate, "--channel", channel)
    return str(system.tuneline(*judged, codes=(0, 1, 2))["verdict"])


@contextmanager
def a_file_is_altered(system: System) -> Iterator[None]:
    artifact = system.merged  # which no engine has open
    files = system.tuneline("artifacts", "show", artifact)["files"]
    blob = next(system.home.rglob(max(files.values(), key=lambda file: file["size"])["sha256"]))
    before = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(before[::-1])
    system.tuneline("artifacts", "verify", artifact, codes=(4,))
    yield
    blob.write_bytes(before)
    system.tuneline("artifacts", "verify", artifact)


@contextmanager
def the_disk_is_filled(system: System) -> Iterator[None]:
    disk = system.small_disk
    filling = disk / "filling"
    filling.write_bytes(b"\0" * int(shutil.disk_usage(disk).free * 0.95))
    yield
    filling.unlink()


@contextmanager
def the_exporter_is_killed(system: System) -> Iterator[None]:
    assert system.small is not None
    system.small.process.kill()
    end(system.small.process)
    yield
    system.start_small()


@contextmanager
def an_old_adapter_is_served(system: System) -> Iterator[None]:
    system.tuneline("promote", system.live, "team/old", *WAIVED)
    yield
    system.tuneline("promote", system.base, "team/old", *WAIVED)


@contextmanager
def a_waiver_is_forgotten(system: System) -> Iterator[None]:
    system.tuneline("promote", system.live, "team/waived", *WAIVED, before=("faketime", "-f", "-8d"))
    yield
    assert _verdict(system, system.merged, "team/waived", margin=0.2) == "pass"
    system.tuneline("promote", system.merged, "team/waived")


@contextmanager
def too_many_ask(system: System) -> Iterator[None]:
    asking = system.serving.asking
    with asking("a", 3, max_tokens=32), asking("b", 3, max_tokens=32):
        yield


def an_adapter_is_scaled(system: System) -> AbstractContextManager[None]:
    return system.recorded.scaled()


@contextmanager
def the_engine_is_killed(system: System) -> Iterator[None]:
    enough = threading.Event()

    def again() -> None:
        while not enough.wait(0.2):
            if (process := system.serving.engine_of_the_whole()) is not None:
                process.kill()

    killer = threading.Thread(target=again)
    killer.start()
    try:
        with system.serving.asking("whole", 1):
            yield
    finally:
        enough.set()
        killer.join()


@contextmanager
def the_budget_is_used(system: System) -> Iterator[None]:
    def is_refused() -> bool:
        answer = system.serving.ask("small")
        return not answer.is_success and answer.json()["error"]["code"] == "insufficient_quota"

    until(is_refused, "the day's tokens are used", seconds(120))
    yield
    system.serving.processes.tuneline("tenants", "set", "small", "--tokens-per-day", "100000")


@contextmanager
def the_channel_moves_on(system: System) -> Iterator[None]:
    system.tuneline("promote", system.base, CHANNEL, *WAIVED)
    yield
    system.tuneline("rollback", CHANNEL, "--reason", "drill")


@contextmanager
def the_endpoint_is_killed(system: System) -> Iterator[None]:
    endpoint = system.endpoint()
    psutil.Process(endpoint["pid"]).kill()
    yield
    system.tuneline("endpoints", "stop", endpoint["id"])


@contextmanager
def the_database_is_away(system: System) -> Iterator[None]:
    system.serving.database.stop()
    yield
    system.serving.database.start()


LANES: tuple[tuple[Trouble, ...], ...] = (
    (
        Trouble(
            ("TunelineOverloaded", "TunelineAdaptersThrash"),
            "two tenants ask three at a time, of an engine with one place for adapters and two in its queue",
            "they ask no more",
            too_many_ask,
        ),
        Trouble(
            ("TunelineBudgetNearlyUsed",),
            "a tenant asks until it is refused",
            "`tuneline tenants set --tokens-per-day`",
            the_budget_is_used,
        ),
    ),
    (
        Trouble(
            ("TunelineEngineDown", "TunelineEngineRestarts", "TunelineFailures"),
            "`kill -9` of an engine as soon as it runs, while its tenant asks",
            "nobody kills it",
            the_engine_is_killed,
        ),
    ),
    (
        Trouble(
            ("TunelineServedOtherwise",),
            "an adapter's file is written over, with a third of its scale, and its gateway started again",
            "the file is put back, and the gateway started again",
            an_adapter_is_scaled,
        ),
    ),
    (
        Trouble(
            ("TunelineDrift",),
            "`tuneline promote` moves a channel, whose endpoint goes on",
            "`tuneline rollback`",
            the_channel_moves_on,
        ),
        Trouble(
            ("TunelineEndpointDown",),
            "`kill -9` of the endpoint",
            "`tuneline endpoints stop`",
            the_endpoint_is_killed,
        ),
    ),
    (
        Trouble(
            ("TunelineRunFailed",),
            "`kill -9` of a run",
            "the run is begun again",
            the_run_is_killed,
            {"recipe": "killed"},
        ),
    ),
    (
        Trouble(
            ("TunelineGateInsufficient",),
            "a gate with a margin of 0.1 points on 32 items",
            "the candidate is promoted, with a waiver",
            the_gate_lacks_items,
            {"channel": "team/gate"},
        ),
    ),
    (
        Trouble(
            ("TunelineDamaged",),
            "a model's file in the store is written over, and verified",
            "the file is put back, and verified",
            a_file_is_altered,
        ),
        Trouble(
            ("TunelineDiskLow",),
            "a small disk is filled to 95 %",
            "the filling is deleted",
            the_disk_is_filled,
            {"instance": "small"},
        ),
        Trouble(
            ("TunelineTargetDown",),
            "`kill -9` of an exporter",
            "it is started again",
            the_exporter_is_killed,
            {"instance": "small"},
        ),
    ),
    (
        Trouble(
            ("TunelineLineageOld",),
            "an adapter whose run was 91 days ago, by a clock set back, is promoted",
            "another model is promoted",
            an_old_adapter_is_served,
            {"channel": "team/old"},
        ),
    ),
    (
        Trouble(
            ("TunelineWaived",),
            "a waiver of 8 days ago, by a clock set back",
            "another model passes the gate, and is promoted",
            a_waiver_is_forgotten,
            {"channel": "team/waived"},
        ),
    ),
)
"""Those of a lane follow each other; all lanes at once."""
LAST = Trouble(
    ("TunelineRegistryAway", "TunelineRegistryUnreadable"),
    "PostgreSQL is stopped",
    "it is started again",
    the_database_is_away,
)
"""After the lanes, of which some need the database."""
