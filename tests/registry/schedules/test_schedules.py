"""Schedules and their runs in the registry, on both database systems."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from registry import Registry
from registry.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidArtifact,
    InvalidSchedule,
    Lost,
    NotFound,
    StoreFailed,
)
from registry.schedules.definition import Asked, Cron, Definition
from registry.schedules.occasions import Occasion, Planned, due_at
from registry.schedules.runs import ATTEMPTS, Ended, ScheduledRuns
from registry.schedules.schedules import checked
from tests.registry.backends import Backend, only
from tests.seconds import seconds

NIGHT = datetime(2026, 11, 29, 3, tzinfo=UTC)


def definition(**changes: Any) -> Definition:
    values: dict[str, Any] = {
        "recipe_name": "tenant.yaml",
        "recipe": {"name": "tenant"},
        "channels": ("a/b",),
    }
    return Definition(**{**values, "triggers": (Cron(at="0 3 * * *"),), **changes})


def planned(registry: Registry, *targets: str, due: datetime = NIGHT, **values: Any) -> Occasion:
    """The schedule `nightly` with runs for these targets, each with a channel of its own."""
    if not registry.schedules.ls():
        registry.schedules.put("nightly", definition(), "ada", replace=False)
    occasion = due_at("nightly", "cron", "it was time", due)
    runs = [Planned(target=target, channel=f"{target}/prod", **values) for target in targets]
    assert registry.occasions.plan(occasion, 1, runs)
    return occasion


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"at_once": 0}, "limits.at_once: expected at least 1, found 0"),
        ({"at_once": 1001}, "limits.at_once: expected at most 1000, found 1001"),
        ({"night_hours": 0.0}, "limits.night_hours: expected more than 0, found 0"),
        (
            {"window": "25:00-26:00"},
            "limits.window: expected two times of day, for example 22:00-06:00, found '25:00-26:00'",
        ),
    ],
)
def test_a_limit_that_cannot_be_is_named_with_what_was_expected(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        checked(recipe_name="tenant.yaml", recipe={}, channels=("a/b",), limits=limits)
    assert str(caught.value) == message


@only("local")
def test_every_change_is_a_version_in_the_log(registry: Registry) -> None:
    put = registry.schedules.put
    first, token = put("nightly", definition(), "ada", replace=False)
    assert (first.version, first.paused, first.has_token, token) == (1, False, False, None)
    with pytest.raises(AlreadyExists, match=r"schedule nightly exists; .*--replace"):
        put("nightly", definition(), "bob", replace=False)
    second, token = put("nightly", definition(triggers=(Asked(on="webhook"),)), "bob", replace=True)
    assert (second.version, second.has_token) == (2, True)
    assert token is not None
    assert registry.schedules.of_token(token) == second
    assert registry.schedules.of_token(token + "x") is None
    third, again = put("nightly", definition(triggers=(Asked(on="webhook"),)), "bob", replace=True)
    assert again is None, "its token goes on"
    assert registry.schedules.of_token(token) == third
    assert registry.schedules.pause("nightly", True, "ada")
    assert not registry.schedules.pause("nightly", True, "ada")
    registry.schedules.remove("nightly", "ada")
    assert registry.schedules.ls() == []
    assert registry.schedules.of_token(token) is None
    with pytest.raises(NotFound, match="no schedule 'nightly'"):
        registry.schedules.pause("nightly", False, "ada")
    back, _ = put("nightly", definition(), "ada", replace=False)
    assert (back.version, back.paused) == (6, False)
    log = registry.schedules.audit("nightly")
    assert [event.action for event in log] == ["add", "change", "change", "pause", "rm", "add"]
    assert [event.who for event in log] == ["ada", "bob", "bob", "ada", "ada", "ada"]


@only("local")
def test_a_change_behind_its_back_is_found(registry: Registry) -> None:
    registry.schedules.put("nightly", definition(), "ada", replace=False)
    for statement in (
        "UPDATE schedules SET paused = 1",
        "DELETE FROM schedules",
        "DELETE FROM schedule_events",
    ):
        with (
            pytest.raises(InvalidArtifact, match=r"next event|never deleted|immutable"),
            registry.database.write() as connection,
        ):
            connection.execute(text(statement))
    with registry.database.write() as connection:
        connection.execute(text("UPDATE schedules SET paused = 1, changes = 2"))
    with pytest.raises(Corrupt, match="events were lost"):
        registry.schedules.audit()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tenants": "a*"}, "channels or a pattern of tenants, not both"),
        ({"channels": ("a/b", "a/b")}, "given twice"),
        ({"triggers": ({"on": "rows"},)}, "a count or a share, one of them"),
        ({"limits": {"window": "22-6"}}, "limits.window: "),
        ({"limits": {"at_once": 0}}, "limits.at_once: "),
        ({"triggers": ({"on": "moon"},)}, "triggers.0: "),
    ],
)
def test_what_a_schedule_cannot_say(values: dict[str, Any], message: str) -> None:
    given = {"recipe_name": "x", "recipe": {}, "channels": ("a/b",), **values}
    with pytest.raises(InvalidSchedule, match=message):
        checked(**given)


@only("local")
def test_bad_names_are_refused(registry: Registry) -> None:
    with pytest.raises(InvalidSchedule, match="'Nightly' is not a valid name"):
        registry.schedules.put("Nightly", definition(), "ada", replace=False)
    with pytest.raises(InvalidArtifact, match="'prod' is not a valid channel name"):
        registry.schedules.put("nightly", definition(channels=("prod",)), "ada", replace=False)


@only("local")
def test_an_occasion_gets_its_runs_once(registry: Registry) -> None:
    occasion = planned(registry, "acme", "zeta")
    assert not registry.occasions.plan(occasion, 1, [Planned(target="acme", channel="acme/prod")])
    assert [run.target for run in registry.scheduled_runs.open("nightly")] == ["acme", "zeta"]
    asked = registry.occasions.ask("nightly", "webhook", "new prices")
    assert registry.occasions.ask("nightly", "webhook", "once more") == asked, "the first still waits"
    assert registry.occasions.asked("nightly") == [asked]
    assert registry.occasions.plan(asked, 1, [])
    assert registry.occasions.asked("nightly") == []
    assert registry.occasions.latest("nightly", "cron", NIGHT - timedelta(seconds=1)) is None
    latest = registry.occasions.latest("nightly", "cron", NIGHT)
    assert latest is not None
    assert latest.due == NIGHT


@only("local")
def test_a_target_whose_last_run_is_not_over_gets_no_second_one(registry: Registry) -> None:
    planned(registry, "a", "b")
    claim = registry.scheduled_runs.claim("nightly", 1)
    assert claim is not None
    planned(registry, "a", "c", due=NIGHT + timedelta(days=1))
    runs = {(run.target, run.occasion): run for run in registry.scheduled_runs.history("nightly")}
    overlapped = runs["a", "cron-20261130T030000Z"]
    assert (overlapped.state, overlapped.note) == ("skipped", "its run of cron-20261129T030000Z is not over")
    assert [run.target for run in registry.scheduled_runs.open("nightly")] == ["a", "b", "c"]


@only("local")
def test_two_look_at_once_and_each_run_is_there_once(backend: Backend) -> None:
    with backend.open() as registry:
        registry.schedules.put("nightly", definition(), "ada", replace=False)
    planned_by: list[bool] = []
    gate = threading.Barrier(2)

    def look() -> None:
        with backend.open() as registry:
            gate.wait()
            occasion = due_at("nightly", "cron", "it was time", NIGHT)
            planned_by.append(registry.occasions.plan(occasion, 1, [Planned(target="a", channel="a/b")]))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(planned_by) == [False, True]
    with backend.open() as registry:
        assert len(registry.scheduled_runs.open("nightly")) == 1


@only("local")
def test_runs_are_claimed_within_the_limit_and_end_once(registry: Registry) -> None:
    planned(registry, "a", "b", "c")
    runs = registry.scheduled_runs
    first, second = runs.claim("nightly", 2), runs.claim("nightly", 2)
    assert first is not None
    assert second is not None
    assert (first.run.target, second.run.target) == ("a", "b")
    assert runs.claim("nightly", 2) is None, "two run"
    runs.finish(first, Ended(state="refused", note="worse", seconds=2.0))
    with pytest.raises(Conflict):
        runs.finish(first, Ended(state="promoted"))
    third = runs.claim("nightly", 2)
    assert third is not None
    assert third.run.target == "c"
    runs.put_back(second, "the database was away", begins=time.time() + 3600)
    assert runs.claim("nightly", 2) is None, "it waits for an hour"
    later = runs.claim("nightly", 2, at=time.time() + 3601)
    assert later is not None
    assert (later.run.target, later.run.attempts) == ("b", 2)
    with (
        pytest.raises(InvalidArtifact, match="stays as it ended"),
        registry.database.write() as connection,
    ):
        connection.execute(text("UPDATE schedule_runs SET note = '' WHERE state = 'refused'"))


@only("local")
@pytest.mark.parametrize("failed", [True, False])
def test_a_run_that_begins_again_keeps_no_other_waiting(registry: Registry, failed: bool) -> None:
    planned(registry, "a", "b")
    runs, did = registry.scheduled_runs, []
    for _ in range(4):
        claim = runs.claim("nightly", 1)
        assert claim is not None
        did.append(claim.run.target)
        runs.put_back(claim, "its process was stopped", failed=failed)
    assert did == ["a", "b", "a", "b"]
    assert [run.attempts for run in runs.open("nightly")] == ([2, 2] if failed else [0, 0])


@only("local")
def test_what_is_put_back_without_a_failure_keeps_its_attempts(registry: Registry) -> None:
    planned(registry, "a")
    runs = registry.scheduled_runs
    first = runs.claim("nightly", 1)
    assert first is not None
    assert not first.again
    for _ in range(2):  # the answer to the first got lost
        runs.put_back(first, "it was interrupted", failed=False)
    second = runs.claim("nightly", 1)
    assert second is not None
    assert (second.again, second.run.attempts) == (True, 1)
    with pytest.raises(Conflict):
        runs.put_back(first, "it was interrupted", failed=False)
    runs.put_back(second, "the database was away")
    assert [run.attempts for run in runs.open("nightly")] == [1]


@only("local")
def test_two_schedules_never_work_on_one_channel(registry: Registry) -> None:
    planned(registry, "a")
    registry.schedules.put("other", definition(), "ada", replace=False)
    occasion = due_at("other", "cron", "it was time", NIGHT)
    registry.occasions.plan(occasion, 1, [Planned(target=name, channel=f"{name}/prod") for name in "ab"])
    assert registry.scheduled_runs.claim("nightly", 9) is not None
    taken = registry.scheduled_runs.claim("other", 9)
    assert taken is not None
    assert taken.run.target == "b", "a/prod is being worked on"
    assert registry.scheduled_runs.claim("other", 9) is None


CLAIMS = """
import os, signal, sys
from pathlib import Path
from registry import Registry
url = sys.argv[2] or None
with Registry.open(Path(sys.argv[1]), url) as registry:
    assert registry.scheduled_runs.claim("nightly", 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@only("local")
def test_a_run_whose_process_was_killed_is_free_again_at_once(backend: Backend) -> None:
    with backend.open() as registry:
        planned(registry, "a")
        runs = registry.scheduled_runs
        for attempt in range(1, ATTEMPTS + 1):
            command = [sys.executable, "-c", CLAIMS, str(backend.home), backend.database_url or ""]
            killed = subprocess.run(command, capture_output=True, text=True, timeout=seconds(60))
            assert killed.returncode == -9, killed.stderr
            assert runs.running("nightly") == 0, "it takes no slot"
            (revived,) = runs.revive("nightly")
            assert revived.attempts == attempt
            assert "was gone" in revived.note
            waits = revived.begins - time.time()
            if revived.state == "waiting":
                assert (attempt == 1) == (waits < 0), "what killed it twice may go on for a while"
            with registry.database.write() as connection:
                connection.execute(text("UPDATE schedule_runs SET begins = 0 WHERE state = 'waiting'"))
        assert revived.state == "failed"
        assert runs.claim("nightly", 1) is None
        assert [run.target for run in runs.failures("nightly")["a"]] == ["a"]


@only("local")
def test_who_lost_the_lease_writes_nothing(registry: Registry) -> None:
    planned(registry, "a")
    brief = ScheduledRuns(registry.database, seconds=0.01)
    lost = brief.claim("nightly", 1)
    assert lost is not None
    time.sleep(0.02)  # its lease runs out
    assert [run.state for run in registry.scheduled_runs.revive("nightly")] == ["waiting"]
    again = registry.scheduled_runs.claim("nightly", 1)
    assert again is not None
    with pytest.raises(Conflict, match="lost"):
        brief.finish(lost, Ended(state="promoted"))
    registry.scheduled_runs.finish(again, Ended(state="promoted"))
    assert registry.scheduled_runs.last_judged("nightly")["a"].state == "promoted"


@only("local")
def test_lanes_that_share_a_schedule_do_each_run_once_and_no_more_at_once_than_it_says(
    backend: Backend,
) -> None:
    names = [f"t{number}" for number in range(6)]
    with backend.open() as registry:
        planned(registry, *names)
    gate, counting = threading.Barrier(2), threading.Lock()
    at_work, most = [0], [0]
    did: list[str] = []

    def lane() -> None:
        with backend.open() as registry:
            gate.wait()
            while (claim := registry.scheduled_runs.claim("nightly", 1)) is not None:
                with counting:
                    at_work[0] += 1
                    most[0] = max(most[0], at_work[0])
                    did.append(claim.run.target)
                with counting:
                    at_work[0] -= 1
                registry.scheduled_runs.finish(claim, Ended(state="refused"))

    threads = [threading.Thread(target=lane) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(did), most) == (names, [1])
    with backend.open() as registry:
        assert registry.scheduled_runs.open("nightly") == []


@only("local")
def test_a_lease_of_another_schedule_keeps_no_dead_run_alive(registry: Registry) -> None:
    planned(registry, "a", "b")
    assert ScheduledRuns(registry.database, seconds=0.01).claim("nightly", 1) is not None
    time.sleep(0.02)  # its lease runs out, as if its machine were gone
    registry.schedules.put("other", definition(), "ada", replace=False)
    occasion = due_at("other", "cron", "it was time", NIGHT)
    registry.occasions.plan(occasion, 1, [Planned(target="a", channel="a/prod")])
    assert registry.scheduled_runs.claim("other", 1) is not None
    assert registry.scheduled_runs.running("nightly") == 0
    assert [run.state for run in registry.scheduled_runs.revive("nightly")] == ["waiting"]
    following = registry.scheduled_runs.claim("nightly", 1)
    assert following is not None
    assert following.run.target == "b"


@only("local")
def test_a_claim_that_was_broken_off_leaves_neither_a_run_nor_a_lease(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(registry, "a")

    def broken(*_: Any) -> Any:
        raise StoreFailed("the connection broke")

    with monkeypatch.context() as within:
        within.setattr("registry.schedules.runs.ScheduledRun.of_row", broken)
        with pytest.raises(StoreFailed):
            registry.scheduled_runs.claim("nightly", 1)
    again = registry.scheduled_runs.claim("nightly", 1)
    assert again is not None
    assert again.run.attempts == 1


@only("local")
def test_an_end_whose_answer_got_lost_can_be_written_again(registry: Registry) -> None:
    planned(registry, "a")
    claim = registry.scheduled_runs.claim("nightly", 1)
    assert claim is not None
    registry.scheduled_runs.finish(claim, Ended(state="promoted", note="generation 1"))
    registry.scheduled_runs.finish(claim, Ended(state="promoted", note="generation 1"))
    (run,) = registry.scheduled_runs.history("nightly")
    assert (run.state, run.note) == ("promoted", "generation 1")
    with pytest.raises(Lost):
        registry.scheduled_runs.put_back(claim, "it was interrupted")


@only("local")
def test_what_waits_of_a_schedule_ends_with_it(registry: Registry) -> None:
    planned(registry, "a", "b", "c")
    runs = registry.scheduled_runs
    first, second = runs.claim("nightly", 2), runs.claim("nightly", 2)
    assert first is not None
    assert second is not None
    registry.occasions.ask("nightly", "manual", "asked for by hand")
    registry.schedules.remove("nightly", "ada")
    assert registry.occasions.asked("nightly") == []
    assert {run.target: run.state for run in runs.history("nightly")} == {
        "a": "running", "b": "running", "c": "skipped",
    }  # fmt: skip
    runs.finish(first, Ended(state="promoted"))
    runs.put_back(second, "it was interrupted")
    assert runs.open("nightly") == []
    assert {(run.state, run.note) for run in runs.history("nightly")} == {
        ("promoted", ""), ("skipped", "its schedule was removed"),
    }  # fmt: skip
    registry.schedules.put("nightly", definition(), "ada", replace=False)
    assert runs.claim("nightly", 2) is None


@only("local")
def test_since_when_a_schedule_has_a_trigger(registry: Registry) -> None:
    three, five = Cron(at="0 3 * * *"), Cron(at="0 5 * * *")
    put, since = registry.schedules.put, registry.schedules.since
    first, _ = put("nightly", definition(triggers=(three,)), "ada", replace=False)
    assert since(first, three) == first.created
    both, _ = put("nightly", definition(triggers=(three, five)), "ada", replace=True)
    registry.schedules.pause("nightly", True, "ada")
    begin = since(both, five)
    assert since(both, three) == first.created
    assert begin is not None
    assert begin > first.created
    assert since(both.model_copy(update={"definition": definition(zone="Asia/Tokyo")}), three) is None
    registry.schedules.remove("nightly", "ada")
    again, _ = put("nightly", definition(triggers=(five,)), "ada", replace=False)
    later = since(again, five)
    assert since(again, three) is None
    assert later is not None
    assert later > begin


@only("local")
def test_failures_since_the_last_result_are_counted(registry: Registry) -> None:
    def night(number: int, state: str) -> None:
        planned(registry, "a", due=NIGHT + timedelta(days=number))
        claim = registry.scheduled_runs.claim("nightly", 1)
        assert claim is not None
        registry.scheduled_runs.finish(claim, Ended(state=state))

    for number, state in enumerate(["failed", "refused", "failed", "failed"]):
        night(number, state)
    assert len(registry.scheduled_runs.failures("nightly")["a"]) == 2
    night(4, "promoted")
    assert registry.scheduled_runs.failures("nightly") == {}
    history = registry.scheduled_runs.history("nightly")
    assert [run.state for run in history] == ["promoted", "failed", "failed", "refused", "failed"]


@only("local")
def test_what_was_decided_against_is_over_at_once(registry: Registry) -> None:
    planned(registry, "a", state="unchanged", note="nothing new")
    assert registry.scheduled_runs.open("nightly") == []
    (run,) = registry.scheduled_runs.history("nightly")
    assert (run.state, run.note, run.trigger, run.due) == ("unchanged", "nothing new", "cron", NIGHT)
    assert run.finished is not None


def test_the_definition_is_kept_as_it_was_written() -> None:
    given = definition(overrides=("prepare.source=path:/data/{tenant}.jsonl",), tenants=None)
    assert Definition.model_validate_json(given.model_dump_json()) == given
