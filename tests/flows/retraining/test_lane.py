"""A lane: one run after another, whatever happens to one of them; ceilings; a database that is away."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from flows.cli import main
from flows.errors import InvalidRecipe, Usage
from flows.gates.gate import Decision, RuleResult
from flows.outcome import RunOutcome
from flows.recipe import load
from flows.retraining import lane as lanes
from flows.retraining.device import own_device
from flows.retraining.lane import Lane
from flows.retraining.learning import Learned
from flows.retraining.look import look
from flows.retraining.times import night
from flows.run.child import KeptWorker
from flows.settings import Settings
from registry import Registry
from registry.errors import Conflict, Corrupt, StoreFailed
from registry.schedules.occasions import Planned, due_at
from registry.schedules.runs import Claim, Ended, ScheduledRuns
from registry.schedules.schedules import Schedule, checked
from tests.flows.metrics.watched import populate
from tests.seconds import seconds

NIGHT = datetime(2026, 11, 29, 3, tzinfo=UTC)
Outcome = Callable[[], Any]
Prepared = Callable[..., Lane]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def prepared(registry: Registry, tmp_path: Path) -> Prepared:
    def make(*teams: str, **limits: Any) -> Lane:
        recipe = load("pico-tenant").model_dump(mode="json")
        channels = tuple(f"{team}/prod" for team in teams)
        values = {"channels": channels, "limits": {"per_device": False, **limits}}
        registry.schedules.put(
            "nightly", checked(recipe_name="pico", recipe=recipe, **values), "ada", replace=False
        )
        runs = [Planned(target=channel, channel=channel) for channel in channels]
        registry.occasions.plan(due_at("nightly", "cron", "it was time", NIGHT), 1, runs)
        return Lane(registry, Settings(home=tmp_path / "home", cache=tmp_path / "cache"), "nightly")

    return make


def ended(error: BaseException | None = None, hours: float = 0.0) -> Any:
    """What a run of a recipe comes to, without an outcome: that of one that failed or was interrupted."""
    rows, outcome = [SimpleNamespace(state="ran", stage="train", seconds=3600 * hours)], RunOutcome()
    return SimpleNamespace(error=error, report=SimpleNamespace(run_id="one", stages=rows), outcome=outcome)


def executing(monkeypatch: pytest.MonkeyPatch, ends: dict[str, Outcome]) -> list[str]:
    """Have runs end so, by the team of their channel; the list of those that began."""
    began: list[str] = []

    def execute(recipe: Any, *_: Any) -> Any:
        team = recipe.promote.channel.partition("/")[0]
        began.append(team)
        return ends[team]()

    monkeypatch.setattr(lanes, "execute", execute)
    monkeypatch.setattr(lanes, "PAUSE_SECONDS", 0.01)
    return began


def raising(error: BaseException) -> Outcome:
    def outcome() -> Any:
        raise error

    return outcome


def states(registry: Registry) -> dict[str, str]:
    return {run.channel.partition("/")[0]: run.state for run in registry.scheduled_runs.history("nightly")}


def test_neither_a_users_mistake_nor_a_defect_ends_the_others(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends = {
        "a": raising(InvalidRecipe("a mistake")),
        "b": raising(KeyError("a defect")),
        "c": lambda: ended(RuntimeError("a stage failed")),
    }
    began = executing(monkeypatch, ends)
    with caplog.at_level(logging.ERROR):
        done = prepared("a", "b", "c").work()
    assert began == ["a", "b", "c"]
    assert [end.note for _, end in done] == [
        "a mistake", "KeyError: 'a defect' (a defect: its trace is in the log)", "a stage failed",
    ]  # fmt: skip
    assert states(registry) == dict.fromkeys("abc", "failed")
    assert any(record.exc_info for record in caplog.records)


def test_what_fails_after_its_channel_has_moved_says_to_what() -> None:
    result = ended(RuntimeError("no port is free"))
    result.outcome.verdict = SimpleNamespace(id="d" * 64, candidate="a" * 64)
    refused = lanes.ended_as(result, None)
    assert (refused.state, refused.artifact_id) == ("failed", None), "it has a verdict, and did not move"
    result.outcome.promoted = SimpleNamespace()
    end = lanes.ended_as(result, None)
    assert (end.state, end.note, end.artifact_id, end.decision_id) == (
        "failed", "no port is free", "a" * 64, "d" * 64,
    )  # fmt: skip


def test_a_refusal_says_what_decided_it_and_not_what_was_only_doubtful() -> None:
    assert refused_for(
        RuleResult(rule="train", verdict="fail", sentence="waived", waived={"who": "ada", "reason": "known"}),
        RuleResult(rule="new", verdict="insufficient", sentence="too few items"),
        RuleResult(rule="old", verdict="fail", sentence="40 points worse"),
    ) == ("refused", "gate: fail; 40 points worse")


@pytest.mark.parametrize("other", ["pass", "insufficient"])
def test_a_refusal_is_not_put_down_to_a_rule_of_which_another_was_enough(other: Literal["pass"]) -> None:
    assert refused_for(
        RuleResult(rule="one", verdict="fail", sentence="no better", group="either"),
        RuleResult(rule="another", verdict=other, sentence="of one group", group="either"),
        RuleResult(rule="old", verdict="fail", sentence="40 points worse"),
    ) == ("refused", "gate: fail; 40 points worse")


def refused_for(*rules: RuleResult) -> tuple[str, str]:
    """State and note of a run that a gate with these rules refused, with the verdict `fail`."""
    decision = Decision(verdict="fail", rules=rules, evidence={})
    result = ended()
    result.outcome.verdict = SimpleNamespace(id="d" * 64, candidate="a" * 64, decision=decision, passed=False)
    end = lanes.ended_as(result, None)
    return end.state, end.note


def test_what_a_killed_lane_leaves_is_done_by_another_without_a_look(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = executing(monkeypatch, {team: raising(InvalidRecipe("a mistake")) for team in "ab"})
    lane = prepared("a", "b")
    gone = ScheduledRuns(registry.database, seconds=0.0)  # nobody keeps its lease, as after a kill
    assert gone.claim("nightly", 9) is not None
    lane.work()
    assert began == ["b", "a"]


def test_the_runs_of_a_lane_share_what_runs_their_stages(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would import torch and its libraries for itself; with GPUs each run sees another one."""
    shared: list[Any] = []

    def execute(recipe: Any, settings: Any, parent: Any, stand_by: Any) -> Any:
        shared.append(stand_by)
        return ended(RuntimeError("a stage failed"))

    monkeypatch.setattr(lanes, "execute", execute)
    prepared("a", "b").work()
    assert shared[0] is shared[1]
    assert isinstance(shared[0], KeptWorker)


def test_an_interruption_puts_the_run_back_and_ends_the_lane(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    executing(monkeypatch, {"a": lambda: ended(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        prepared("a", "b").work()
    assert states(registry) == {"a": "waiting", "b": "waiting"}
    assert registry.scheduled_runs.running("nightly") == 0
    assert [run.attempts for run in registry.scheduled_runs.open("nightly")] == [0, 0]


def test_hours_that_end_before_a_device_is_free_cost_no_attempt(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = prepared("a")
    began = executing(monkeypatch, {})

    @contextmanager
    def busy(_: object) -> Iterator[None]:
        monkeypatch.setattr(lanes, "opens", lambda *_: NIGHT)
        yield

    monkeypatch.setattr(lane, "_device", busy)
    for _ in range(2):
        monkeypatch.setattr(lanes, "opens", lambda *_: None)
        assert lane.work() == []
        (run,) = registry.scheduled_runs.open("nightly")
        assert (run.attempts, run.note) == (0, "its hours were over before a device was free")
    assert began == []


def test_a_database_that_was_away_costs_a_run_one_attempt_and_nothing_more(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = StoreFailed("the server does not answer")
    ends = iter([raising(away), lambda: ended(away), lambda: ended(RuntimeError("at last"))])
    locked = Conflict("another process has been writing for 60 s")
    began = executing(monkeypatch, {"a": lambda: next(ends)()})
    lane = prepared("a")
    finish, answers = registry.scheduled_runs.finish, iter([away, locked, None])

    def sometimes(*arguments: Any) -> None:
        if (error := next(answers)) is not None:
            raise error
        finish(*arguments)

    monkeypatch.setattr(registry.scheduled_runs, "finish", sometimes)
    told: list[str] = []
    lane.report = told.append
    (only,) = lane.work()
    assert began == ["a", "a", "a"]
    assert only[1].note == "at last"
    assert sum("waiting for the database" in line for line in told) == 2


def test_a_night_has_its_ceiling(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ended(RuntimeError("after hours"), hours=2)
    executing(monkeypatch, dict.fromkeys("abc", lambda: long))
    prepared("a", "b", "c", night_hours=3).work()
    assert states(registry) == {"a": "failed", "b": "failed", "c": "skipped"}
    (latest, *_) = registry.scheduled_runs.history("nightly")
    assert latest.note == "the night's 3 h of computing are used up (4 h 0 min)"


def test_what_no_later_time_comes_for_waits_for_the_next_night(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs of an upgrade, say: once skipped, nothing would ever ask for them again."""
    executing(monkeypatch, dict.fromkeys("abc", lambda: ended(RuntimeError("after hours"), hours=2)))
    lane = prepared("a", night_hours=1)
    by_hand = registry.occasions.ask("nightly", "manual", "an upgrade")
    registry.occasions.plan(by_hand, 1, [Planned(target=name, channel=f"{name}/prod") for name in "bc"])
    lane.work()
    assert states(registry) == {"a": "failed", "b": "waiting", "c": "waiting"}
    schedule, now = registry.schedules.get("nightly"), datetime.now(UTC)
    end = night("UTC", now)[1]
    for run in registry.scheduled_runs.open("nightly"):
        assert run.note.endswith(f"are used up (2 h 0 min); it waits until {end:%Y-%m-%d %H:%M} UTC")
    assert not lanes.is_busy(registry, schedule, time.time() + 60), "nobody has to look before"
    assert lanes.is_busy(registry, schedule, end.timestamp() + 60)
    lane.work()
    assert states(registry)["b"] == "waiting"
    claim = registry.scheduled_runs.claim("nightly", 1, at=end.timestamp())
    assert claim is not None
    assert claim.run.target == "b"
    assert lanes.is_busy(registry, schedule, 0.0)


def test_what_waits_for_the_next_night_begins_once_the_ceiling_is_raised(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor could it be asked for again: its run is not over."""
    began = executing(monkeypatch, dict.fromkeys("ab", lambda: ended(RuntimeError("it ran"), hours=2)))
    lane = prepared("a", night_hours=1)
    by_hand = registry.occasions.ask("nightly", "manual", "asked for by hand")
    registry.occasions.plan(by_hand, 1, [Planned(target="b/prod", channel="b/prod")])
    lane.work()
    assert states(registry) == {"a": "failed", "b": "waiting"}
    definition = registry.schedules.get("nightly").definition
    limits = definition.limits.model_copy(update={"night_hours": 9.0})
    wider = definition.model_copy(update={"limits": limits, "channels": ("a/prod", "b/prod")})
    registry.schedules.put("nightly", wider, "ada", replace=True)
    lane.work()
    assert began == ["a", "b"]
    assert states(registry) == {"a": "failed", "b": "failed"}


def test_a_ceiling_in_money_needs_prices(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executing(monkeypatch, dict.fromkeys("ab", lambda: ended(RuntimeError("after hours"), hours=2)))
    lane = prepared("a", "b", night_cost=5)
    with pytest.raises(Usage, match=r"a ceiling of 5 a night and there are no prices of an hour here: set"):
        lane.work()
    rates = tmp_path / "rates.yaml"
    rates.write_text("currency: EUR\nengine_hour: {vllm: 2}\n")
    unpriced = Settings(home=tmp_path / "home", cache=tmp_path / "cache", rates=rates)
    with pytest.raises(Usage, match="no prices of an hour here"):
        Lane(registry, unpriced, "nightly").work()
    rates.write_text("currency: EUR\nmachine_hour: 3\n")
    priced = Settings(home=tmp_path / "home", cache=tmp_path / "cache", rates=rates)
    Lane(registry, priced, "nightly").work()
    assert states(registry) == {"a": "failed", "b": "skipped"}
    runs = registry.scheduled_runs.history("nightly")
    assert [run.cost for run in runs] == [None, 6.0]
    assert runs[0].note == "the night's ceiling of 5 EUR is reached (6.00)"


def test_outside_its_hours_only_what_was_asked_by_hand_begins(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    executing(monkeypatch, dict.fromkeys("ab", lambda: ended(RuntimeError("it ran"))))
    monkeypatch.setattr(lanes, "opens", lambda *_: NIGHT)
    lane = prepared("a")
    assert lane.work() == []
    both = registry.schedules.get("nightly").definition.model_copy(update={"channels": ("a/prod", "b/prod")})
    registry.schedules.put("nightly", both, "ada", replace=True)
    by_hand = registry.occasions.ask("nightly", "manual", "asked for by hand")
    registry.occasions.plan(by_hand, 1, [Planned(target="b/prod", channel="b/prod")])
    assert [(run.target, end.note) for run, end in lane.work()] == [("b/prod", "it ran")]
    assert states(registry)["a"] == "waiting"


def test_one_run_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings, told, waits = Settings(cache=tmp_path), [], threading.Event()
    got: list[int | None] = []

    def third() -> None:
        def hear(line: str) -> None:
            told.append(line)
            waits.set()

        with own_device(settings, 2, hear) as device:
            got.append(device)

    with own_device(settings, 2, told.append) as first:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 1")
        with own_device(settings, 2, told.append) as second:
            assert (first, second) == (0, 1)
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
            thread = threading.Thread(target=third)
            thread.start()
            assert waits.wait(seconds(10))
            assert got == []
        thread.join(seconds(10))
    assert got == [1]
    assert told == ["waiting: another scheduled run has gpu-0 and gpu-1 of this machine"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with own_device(settings, 0, told.append) as none:
        assert none is None
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_is_wrong_with_one_schedule_is_no_matter_of_the_others(
    registry: Registry,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    executing(monkeypatch, {"a": lambda: ended(RuntimeError("it ran"))})
    prepared("a")
    for tenant in ("one", "two"):
        registry.tenants.add(tenant, "shared/prod", "ada")
    recipe = load("pico-tenant").model_dump(mode="json")
    shared = checked(recipe_name="pico", recipe=recipe, tenants="*")
    registry.schedules.put("before", shared, "ada", replace=False)
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    assert main(["schedule", "run", "--json"]) == 4
    before, nightly = json.loads(capsys.readouterr().out)
    assert "tenants one and two share the channel shared/prod" in before["note"]
    assert (nightly["schedule"], nightly["note"]) == ("nightly", "it ran")


@pytest.mark.parametrize("error", [SystemExit(1), OSError("no space left for the lock")])
def test_whatever_ends_a_lane_puts_its_run_back(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def device(*_: Any) -> Any:
        raise error

    executing(monkeypatch, {})
    monkeypatch.setattr(lanes, "own_device", device)
    with pytest.raises(type(error)):
        prepared("a", per_device=True).work()
    assert states(registry) == {"a": "waiting"}
    assert registry.scheduled_runs.running("nightly") == 0


def test_a_run_that_got_its_device_after_its_hours_begins_another_night(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = executing(monkeypatch, {"a": lambda: ended(RuntimeError("it ran"))})
    looks = iter([None, NIGHT, NIGHT])
    monkeypatch.setattr(lanes, "opens", lambda *_: next(looks))
    assert prepared("a").work() == []
    assert began == []
    (run,) = registry.scheduled_runs.history("nightly")
    assert (run.state, run.note) == ("waiting", "its hours were over before a device was free")


def test_a_tenants_data_goes_into_no_channel_that_is_not_the_tenants_any_more(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = executing(monkeypatch, {"a": lambda: ended(RuntimeError("it ran"))})
    lane = prepared("a")
    registry.tenants.add("acme", "a/prod", "ada")
    of_tenants = registry.schedules.get("nightly").definition.model_copy(
        update={"channels": (), "tenants": "*"}
    )
    registry.schedules.put("nightly", of_tenants, "ada", replace=True)
    (waits,) = registry.scheduled_runs.open("nightly")
    assert registry.scheduled_runs.put_off(waits, "for this test")
    occasion = due_at("nightly", "cron", "it was time", NIGHT + timedelta(days=1))
    registry.occasions.plan(occasion, 2, [Planned(target="acme", channel="a/prod")])
    registry.tenants.change("acme", "ada", channel="b/prod")
    registry.tenants.add("other", "a/prod", "ada")
    ((run, end),) = lane.work()
    assert (began, run.target, end.state) == ([], "acme", "skipped")
    assert end.note == "it is not to be retrained on a/prod any more"


def test_what_another_run_learned_meanwhile_is_not_learned_again(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that was planned before would move a channel forward that somebody rolled back."""
    began = executing(monkeypatch, {"a": lambda: ended(RuntimeError("it ran"))})
    monkeypatch.setattr(lanes, "learns", lambda *_: Learned("1" * 64, "2" * 64, None))
    lane = prepared("a")
    claim = registry.scheduled_runs.claim("nightly", 1)
    assert claim is not None
    registry.scheduled_runs.finish(claim, Ended(state="promoted", learned="1" * 64))
    occasion = due_at("nightly", "cron", "it was time", NIGHT + timedelta(days=1))
    registry.occasions.plan(occasion, 1, [Planned(target="a/prod", channel="a/prod")])
    ((_, end),) = lane.work()
    assert (began, end.state) == ([], "unchanged")
    assert end.note.startswith("nothing new since it was promoted on ")


@pytest.mark.parametrize(
    ("holds", "row", "state", "note"),
    [
        ("live", ("ran", "canary of 10 % started"), "passed",
         "a/prod stays where it is: canary of 10 % started"),
        ("candidate", ("ran", "generation 4"), "promoted", "generation 4"),
        ("candidate", ("reused", ""), "passed", "a/prod had it already"),
    ],
)  # fmt: skip
def test_a_channel_that_a_canary_is_to_decide_about_was_not_moved(
    holds: str, row: tuple[str, str], state: str, note: str
) -> None:
    moved = SimpleNamespace(stage="promote", state=row[0], note=row[1], seconds=0.0)
    result: Any = ended()
    result.report.stages = [moved]
    result.outcome = SimpleNamespace(
        verdict=SimpleNamespace(id="decision", candidate="candidate", passed=True),
        channel=SimpleNamespace(name="a/prod", artifact_id=holds, generation=4),
    )
    end = lanes.ended_as(result, None)
    assert (end.state, end.note, end.artifact_id) == (state, note, "candidate")


def test_a_channel_that_a_killed_attempt_moved_was_promoted_by_its_run(
    registry: Registry, prepared: Prepared
) -> None:
    """The next attempt finds it there already; the night's page would not tell of it as promoted."""
    live = populate(registry)["gguf"].id
    (move,) = registry.channels.history("support/prod")
    lane, earlier = prepared("a"), move.at - timedelta(hours=1)
    (run,) = registry.scheduled_runs.open("nightly")
    run = run.model_copy(update={"channel": "support/prod", "due": earlier})
    again = Claim(run, 1, again=True)
    had_it = Ended(state="passed", note="it had it already", artifact_id=live, decision_id="of the retry")
    credited = lane._credited(again, had_it)
    assert (credited.state, credited.decision_id) == ("promoted", move.decision_id)
    for claim, end in (
        (Claim(run, 1), had_it),
        (Claim(run.model_copy(update={"due": move.at + timedelta(hours=1)}), 1, again=True), had_it),
        (again, had_it.model_copy(update={"artifact_id": "another"})),
        (again, had_it.model_copy(update={"state": "refused"})),
    ):
        assert lane._credited(claim, end) == end


def test_a_damaged_history_ends_no_lane(
    registry: Registry, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_channel: str) -> Any:
        raise Corrupt("history of channel support/prod: event 1 was changed")

    lane = prepared("a")
    (run,) = registry.scheduled_runs.open("nightly")
    monkeypatch.setattr(registry.channels, "history", damaged)
    had_it = Ended(state="passed", note="it had it already", artifact_id="live")
    assert lane._credited(Claim(run, 1, again=True), had_it) == had_it


def test_what_waits_for_its_hours_is_not_called_nothing(
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepared("a", "b")
    monkeypatch.setattr(lanes, "opens", lambda *_: NIGHT)
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    assert main(["schedule", "run"]) == 0
    assert "runs that wait, or are done elsewhere: 2" in capsys.readouterr().out


def test_what_a_faster_look_decided_is_told_too(
    registry: Registry,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    executing(
        monkeypatch, {"a": lambda: ended(RuntimeError("it ran")), "b": lambda: ended(RuntimeError("it ran"))}
    )
    prepared("a", "b")
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    assert main(["schedule", "run", "nightly", "--json"]) == 4
    capsys.readouterr()

    def slower(registry: Registry, schedule: Schedule) -> list[Planned]:
        look(registry, schedule)
        return look(registry, schedule)

    monkeypatch.setattr("flows.retraining.look.look", slower)
    assert main(["schedule", "run", "nightly", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["target"], row["state"]) for row in rows] == [("a/prod", "skipped"), ("b/prod", "skipped")]
