"""What is due gets its runs: cron, new rows, another base; what was missed, failed, or is not new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from flows.errors import InvalidRecipe, Usage
from flows.recipe import load
from flows.retraining.look import look
from flows.retraining.targets import recipe_for, targets_of
from flows.run import fingerprint
from registry import Registry
from registry.artifacts import digest
from registry.feeds.rows import NewRow
from registry.schedules.definition import Cron, Definition
from registry.schedules.occasions import Planned
from registry.schedules.runs import Ended
from registry.schedules.schedules import checked

CRON = {"on": "cron", "at": "0 3 * * *"}
Scheduled = Callable[..., "Nightly"]


class Nightly:
    """A schedule that was made long ago, and the clock by which it is looked at."""

    def __init__(self, registry: Registry, definition: Definition) -> None:
        self.registry = registry
        self.schedule, _ = registry.schedules.put("nightly", definition, "ada", replace=False)
        self.schedule = self.schedule.model_copy(update={"created": datetime(2026, 11, 1, tzinfo=UTC)})

    def look(self, at: str) -> list[Planned]:
        return look(self.registry, self.schedule, datetime.fromisoformat(at).replace(tzinfo=UTC))

    def end(self, state: str) -> None:
        """Every run that waits ends so, having learned what it was planned for."""
        while (claim := self.registry.scheduled_runs.claim("nightly", 99)) is not None:
            run = claim.run
            ended = Ended(
                state=state, learned=run.learned, base_key=run.base_key, source_rows=run.source_rows
            )
            self.registry.scheduled_runs.finish(claim, ended)

    def why(self) -> list[str]:
        with self.registry.database.read() as connection:
            return list(connection.execute(text("SELECT why FROM schedule_occasions ORDER BY due")).scalars())


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def scheduled(registry: Registry, tmp_path: Path) -> Scheduled:
    for tenant in ("acme", "zeta"):
        registry.tenants.add(tenant, f"{tenant}/prod", "ada")
        (tmp_path / f"{tenant}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 10)

    def make(*triggers: dict[str, Any], **changes: Any) -> Nightly:
        overrides = (f"prepare.source=path:{tmp_path}/{{tenant}}.jsonl", "prepare.format=auto")
        recipe = load("pico-tenant").model_dump(mode="json")
        values = {"tenants": "*", "overrides": overrides, "triggers": triggers or (CRON,), **changes}
        return Nightly(registry, checked(recipe_name="pico-tenant", recipe=recipe, **values))

    return make


def states(planned: list[Planned]) -> dict[str, str]:
    return {run.target: run.state for run in planned}


def test_each_tenant_has_its_own_recipe(registry: Registry, scheduled: Scheduled) -> None:
    definition = scheduled().schedule.definition
    acme, zeta = targets_of(registry, definition)
    recipe = recipe_for(definition, acme)
    assert recipe.prepare.source.endswith("/acme.jsonl")
    assert recipe.promote is not None
    assert recipe.promote.channel == "acme/prod"
    assert recipe_for(definition, zeta).prepare.source.endswith("/zeta.jsonl")


def test_what_a_schedule_cannot_be_for(registry: Registry, scheduled: Scheduled) -> None:
    definition = scheduled().schedule.definition
    registry.tenants.add("late", "zeta/prod", "ada")
    with pytest.raises(Usage, match=r"tenants late and zeta share the channel zeta/prod"):
        targets_of(registry, definition)
    channels = definition.model_copy(update={"tenants": None, "channels": ("a/b",)})
    with pytest.raises(InvalidRecipe, match=r"\{tenant\} is for schedules of tenants"):
        recipe_for(channels, targets_of(registry, channels)[0])
    relative = channels.model_copy(update={"overrides": ("prepare.source=path:data/{name}.jsonl",)})
    with pytest.raises(InvalidRecipe, match=r"has to be absolute: --set .*data/b\.jsonl"):
        recipe_for(relative, targets_of(registry, relative)[0])
    alone = channels.model_copy(update={"channels": (), "recipe": {**definition.recipe, "promote": None}})
    with pytest.raises(Usage, match="has no promote section"):
        targets_of(registry, alone)


def test_it_is_due_once_for_every_tenant(scheduled: Scheduled) -> None:
    nightly = scheduled()
    assert states(nightly.look("2026-11-29T03:00")) == {"acme": "waiting", "zeta": "waiting"}
    assert nightly.look("2026-11-29T03:05") == []
    assert nightly.look("2026-11-30T02:59") == []


def test_nothing_new_to_learn_runs_nothing_and_new_rows_do(scheduled: Scheduled, tmp_path: Path) -> None:
    nightly = scheduled()
    nightly.look("2026-11-28T03:00")
    nightly.end("refused")
    with (tmp_path / "zeta.jsonl").open("a") as file:
        file.write('{"prompt": "c", "completion": "d"}\n')
    planned = nightly.look("2026-11-29T03:00")
    assert states(planned) == {"acme": "unchanged", "zeta": "waiting"}
    assert planned[0].note.startswith("nothing new since it was refused on ")
    nightly.end("promoted")
    assert states(nightly.look("2026-11-30T03:00")) == {"acme": "unchanged", "zeta": "unchanged"}


def test_a_machine_that_was_off_makes_up_for_it_once(scheduled: Scheduled) -> None:
    nightly = scheduled()
    nightly.look("2026-11-25T03:00")
    nightly.end("refused")
    nightly.look("2026-11-29T08:00")
    assert nightly.why()[-1] == (
        "0 3 * * * (UTC), 5 h 0 min late: nobody looked then; made up for 3 earlier times, too"
    )
    assert len(nightly.why()) == 2
    assert nightly.look("2026-11-29T08:05") == []


def test_a_clock_that_goes_back_repeats_nothing_and_one_that_ran_ahead_stops_nothing(
    scheduled: Scheduled,
) -> None:
    nightly = scheduled()
    nightly.look("2026-11-29T03:10")
    nightly.end("refused")
    assert nightly.look("2026-11-29T02:50") == []
    assert nightly.look("2026-11-29T03:20") == []
    nightly.look("2031-01-01T03:00")  # for a moment the clock was years ahead
    nightly.end("refused")
    assert states(nightly.look("2026-11-30T03:00")) == {"acme": "unchanged", "zeta": "unchanged"}


def test_a_run_that_is_not_over_is_passed_over(scheduled: Scheduled) -> None:
    nightly = scheduled()
    nightly.look("2026-11-28T03:00")
    nightly.look("2026-11-29T03:00")
    runs = nightly.registry.scheduled_runs.history("nightly")
    assert [(run.target, run.state) for run in runs] == [
        ("zeta", "skipped"), ("acme", "skipped"), ("zeta", "waiting"), ("acme", "waiting"),
    ]  # fmt: skip
    assert runs[0].note == "its run of cron-20261128T030000Z is not over"


def test_failures_make_it_wait_longer_each_time(scheduled: Scheduled) -> None:
    nightly = scheduled({"on": "cron", "at": "* * * * *"}, limits={"back_off_minutes": 90})
    now = datetime.now(UTC)  # failures are dated by the real clock
    waits = {0: False, 1.4: True, 1.6: False, 2.9: True, 3.1: False, 5.9: True}
    for hours, expected in ((hours, "skipped" if waiting else "waiting") for hours, waiting in waits.items()):
        planned = look(nightly.registry, nightly.schedule, now + timedelta(hours=hours))
        assert states(planned)["acme"] == expected, hours
        if expected == "waiting":
            nightly.end("failed")
        else:
            assert "waits until" in planned[0].note
    nightly.end("refused")


def test_new_rows_in_numbers_and_in_shares(scheduled: Scheduled, tmp_path: Path) -> None:
    nightly = scheduled({"on": "rows", "count": 5})
    assert states(nightly.look("2026-11-29T10:00")) == {"acme": "waiting", "zeta": "waiting"}
    nightly.end("promoted")

    def add(rows: int) -> None:
        with (tmp_path / "acme.jsonl").open("a") as file:
            file.write('{"prompt": "c", "completion": "d"}\n' * rows)

    assert nightly.look("2026-11-29T10:05") == []
    add(4)
    assert nightly.look("2026-11-29T10:10") == [], "four of five"
    add(1)
    assert states(nightly.look("2026-11-29T10:15")) == {"acme": "waiting"}
    assert nightly.look("2026-11-29T10:20") == [], "its run is not over"
    nightly.end("refused")
    by_share = checked(
        **{**nightly.schedule.definition.model_dump(), "triggers": [{"on": "rows", "share": 0.5}]}
    )
    nightly.schedule = nightly.schedule.model_copy(update={"definition": by_share})
    add(7)
    assert nightly.look("2026-11-29T10:25") == [], "7 of 15 rows"
    add(1)
    assert states(nightly.look("2026-11-29T10:30")) == {"acme": "waiting"}


def test_another_base_retrains_everybody_without_new_rows(scheduled: Scheduled, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    overrides = (f"prepare.source=path:{tmp_path}/{{tenant}}.jsonl", "prepare.format=auto")
    nightly = scheduled({"on": "base"}, overrides=(*overrides, f"base.source=path:{base}"))
    assert states(nightly.look("2026-11-29T10:00")) == {"acme": "waiting", "zeta": "waiting"}
    nightly.end("promoted")
    with (tmp_path / "acme.jsonl").open("a") as file:
        file.write('{"prompt": "c", "completion": "d"}\n')
    assert nightly.look("2026-11-29T10:05") == [], "rows are no matter of this trigger"
    (base / "config.json").write_text('{"moved": true}')
    assert states(nightly.look("2026-11-29T10:10")) == {"acme": "waiting", "zeta": "waiting"}
    assert nightly.why()[-1] == "the base moved"


def test_a_source_that_is_gone_is_one_tenants_trouble(scheduled: Scheduled, tmp_path: Path) -> None:
    nightly = scheduled()
    nightly.look("2026-11-28T03:00")
    nightly.end("refused")
    (tmp_path / "acme.jsonl").unlink()
    assert states(nightly.look("2026-11-29T03:00")) == {"acme": "waiting", "zeta": "unchanged"}


def test_paused_it_does_what_is_asked_by_hand_only(scheduled: Scheduled) -> None:
    nightly = scheduled()
    nightly.schedule = nightly.schedule.model_copy(update={"paused": True})
    assert nightly.look("2026-11-29T03:00") == []
    nightly.registry.occasions.ask("nightly", "webhook", "asked for with its token")
    assert nightly.look("2026-11-29T03:01") == []
    nightly.registry.occasions.ask("nightly", "manual", "asked for by hand")
    assert states(nightly.look("2026-11-29T03:05")) == {"acme": "waiting", "zeta": "waiting"}
    assert nightly.look("2026-11-29T03:10") == []


def test_a_feeds_new_rows_are_known_by_its_watermark(registry: Registry, scheduled: Scheduled) -> None:
    def add(*names: str) -> None:
        for tenant in ("acme", "zeta") if names == ("first",) else ("acme",):
            content = '{"prompt": "a", "completion": "b"}'
            rows = [NewRow(digest([tenant, name]), content, "file") for name in names]
            registry.feeds.add(tenant, rows, "ada")

    add("first")
    nightly = scheduled({"on": "rows", "count": 2}, overrides=("prepare.source=feed:{tenant}",))
    assert states(nightly.look("2026-11-29T10:00")) == {"acme": "waiting", "zeta": "waiting"}
    nightly.end("promoted")
    add("second")
    assert nightly.look("2026-11-29T10:05") == []
    add("third", "second")
    assert states(nightly.look("2026-11-29T10:10")) == {"acme": "waiting"}
    nightly.end("refused")
    assert nightly.look("2026-11-29T10:15") == []


def test_a_time_from_before_the_trigger_is_not_made_up_for(
    registry: Registry, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = scheduled()
    nightly.look("2026-11-28T03:00")
    nightly.end("refused")
    monkeypatch.setattr("registry.schedules.schedules.now", lambda: "2026-11-28T10:00:00.000000+00:00")
    later = nightly.schedule.definition.model_copy(update={"triggers": (Cron(at="0 5 * * *"),)})
    changed, _ = registry.schedules.put("nightly", later, "ada", replace=True)
    nightly.schedule = changed.model_copy(update={"created": nightly.schedule.created})
    assert nightly.look("2026-11-28T10:05") == [], "at 05:00 it was not to run yet"
    assert states(nightly.look("2026-11-29T05:00")) == {"acme": "unchanged", "zeta": "unchanged"}
    assert nightly.why()[-1] == "0 5 * * * (UTC)"


def test_a_source_that_is_gone_fails_for_triggers_that_are_looked_at_too(
    scheduled: Scheduled, tmp_path: Path
) -> None:
    nightly = scheduled({"on": "rows", "count": 5})
    nightly.look("2026-11-29T10:00")
    nightly.end("promoted")
    (tmp_path / "acme.jsonl").unlink()
    assert states(nightly.look("2026-11-29T10:05")) == {"acme": "waiting"}


def test_a_source_that_cannot_be_read_is_one_tenants_trouble(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly, real = scheduled(), fingerprint.tree_digest
    nightly.look("2026-11-28T03:00")
    nightly.end("refused")

    def digest_of(path: Path) -> str:
        if path.name == "acme.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(fingerprint, "tree_digest", digest_of)
    assert states(nightly.look("2026-11-29T03:00")) == {"acme": "waiting", "zeta": "unchanged"}


def test_a_failure_while_the_clock_was_ahead_is_waited_for_no_longer(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = scheduled()
    nightly.look("2026-11-28T03:00")
    with monkeypatch.context() as ahead:
        ahead.setattr("registry.schedules.runs.now", lambda: "2031-01-01T03:00:00.000000+00:00")
        nightly.end("failed")
    assert states(nightly.look("2026-11-29T03:00")) == {"acme": "waiting", "zeta": "waiting"}
