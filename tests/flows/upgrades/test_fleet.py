"""A fleet of channels is upgraded: begun once, gone on with after a kill, taken back by one command."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main, parser
from flows.commands.pipeline import upgrade as command
from flows.errors import Usage
from flows.retraining import lane as lanes
from flows.retraining.targets import Target, recipe_for
from flows.settings import Settings
from flows.upgrades import fleet, hosts
from flows.upgrades.plan import Step, UpgradePlan
from flows.upgrades.undo import undo
from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from registry.processes import ProcessId
from registry.schedules.definition import ScheduleLimits
from registry.schedules.runs import Ended, ScheduledRun
from registry.schedules.schedules import Schedule, checked
from tests.flows.lineages import evaluate, family, publish
from tests.flows.upgrades.made_by_recipes import WAIVER, recipe_of
from tests.seconds import seconds

LIMITS = ScheduleLimits(per_device=False)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    with Registry.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def models(registry: Registry) -> dict[str, Artifact]:
    """What channels serve (`gguf`), and what upgrades make (`gptq`)."""
    made = family(registry)
    for name in ("a", "b", "c"):
        registry.channels.move(f"{name}/prod", made["gguf"].id, 0, waiver=WAIVER)
    return made


def planned(*channels: str, **refused: str) -> UpgradePlan:
    steps = [
        Step(name, "replay", "another base", recipe_of(name, "base.source=pico:7"), 1.0) for name in channels
    ]
    steps += [Step(f"{name}/prod", "refused", why) for name, why in refused.items()]
    return UpgradePlan("pico:7", tuple(steps), 0.0)


def settings(registry: Registry) -> Settings:
    return Settings(home=registry.home, cache=registry.home / "cache")


def executing(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, made: Artifact, fails: tuple[str, ...] = ()
) -> list[str]:
    """Have a run move its channel to `made`, or be refused by its gate; the list of those that began."""
    began: list[str] = []

    def run(self: Any, schedule: Schedule, claim: ScheduledRun) -> Ended:
        recipe = recipe_for(schedule.definition, Target(claim.target, claim.channel))
        assert recipe.promote is not None
        assert (recipe.base.source, recipe.promote.channel) == ("pico:7", claim.channel)
        began.append(claim.channel)
        if claim.channel in fails:
            return Ended(state="refused", note="gate: fail", artifact_id=made.id, seconds=2.0)
        current = registry.channels.get(claim.channel)
        assert current is not None
        moved = registry.channels.move(claim.channel, made.id, current.generation, waiver=WAIVER)
        return Ended(
            state="promoted", note=f"generation {moved.generation}", artifact_id=made.id, seconds=2.0
        )

    monkeypatch.setattr(lanes.Lane, "_run", run)
    return began


def begun(registry: Registry, plan: UpgradePlan) -> str:
    return fleet.begin(registry, plan, LIMITS, "UTC", "ada")


def states(registry: Registry, name: str) -> dict[str, str]:
    return {one.run.channel: one.state for one in fleet.upgraded(registry, name)}


def serves(registry: Registry, *channels: str) -> list[str]:
    return [current.artifact_id for name in channels if (current := registry.channels.get(name))]


def go_on(registry: Registry, name: str) -> None:
    fleet.go_on(registry, settings(registry), name, "ada", lambda _: None)


def test_each_channel_has_its_own_end_and_all_of_it_is_one_table(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    began = executing(monkeypatch, registry, models["gptq"], fails=("b/prod",))
    name = begun(registry, planned("a/prod", "b/prod", c="it was imported"))
    go_on(registry, name)
    assert began == ["a/prod", "b/prod"]
    assert states(registry, name) == {"a/prod": "promoted", "b/prod": "refused", "c/prod": "skipped"}
    assert serves(registry, "a/prod", "b/prod", "c/prod") == [
        models["gptq"].id, models["gguf"].id, models["gguf"].id,
    ]  # fmt: skip
    assert registry.schedules.ls() == [], "an upgrade that is over is no schedule any more"
    assert main(["upgrade-base", "--show", name, "--json"]) == 1, "a gate refused one"
    shown = json.loads(capsys.readouterr().out)["channels"]
    assert [(one["channel"], one["does"], one["state"]) for one in shown] == [
        ("a/prod", "replay", "promoted"), ("b/prod", "replay", "refused"), ("c/prod", "–", "skipped"),
    ]  # fmt: skip
    assert main(["upgrade-base"]) == 0
    assert "1 promoted, 1 refused, 1 skipped" in " ".join(capsys.readouterr().out.split())


def test_one_command_takes_back_what_moved_and_names_what_moved_since(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    executing(monkeypatch, registry, models["gptq"], fails=("b/prod",))
    name = begun(registry, planned("a/prod", "b/prod", "c/prod"))
    go_on(registry, name)
    registry.channels.move("c/prod", models["merged"].id, 2, waiver=WAIVER)
    assert main(["upgrade-base", "--undo", name, "--who", "olga", "--json"]) == 3
    came = {
        one["channel"]: (one["came"], one["note"]) for one in json.loads(capsys.readouterr().out)["channels"]
    }
    assert came["a/prod"][0] == "back"
    assert came["b/prod"] == ("as before", "it did not move: refused")
    assert came["c/prod"] == ("refused", "moved since: generation 3, by tests")
    assert serves(registry, "a/prod", "b/prod", "c/prod") == [
        models["gguf"].id, models["gguf"].id, models["merged"].id,
    ]  # fmt: skip
    last = registry.channels.history("a/prod")[-1]
    assert (last.action, last.who, last.reason) == ("rollback", "olga", f"{name} is undone")
    again = {one.channel: (one.came, one.note) for one in undo(registry, name, "olga")}
    assert again["a/prod"] == ("as before", "was undone at generation 3")
    assert registry.channels.get("a/prod").generation == 3  # type: ignore[union-attr]


def test_what_is_undone_before_its_end_begins_no_more(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = executing(monkeypatch, registry, models["gptq"])
    name = begun(registry, planned("a/prod", "b/prod"))
    claim = registry.scheduled_runs.claim(name, 1)
    assert claim is not None
    with pytest.raises(Usage, match="is still at work: stop it where it runs, then undo it"):
        undo(registry, name, "ada")
    registry.scheduled_runs.put_back(claim, "stopped")
    assert [one.came for one in undo(registry, name, "ada")] == ["as before", "as before"]
    go_on(registry, name)
    assert began == []
    assert set(states(registry, name).values()) == {"skipped"}


def test_two_upgrades_never_have_one_channel(registry: Registry, models: dict[str, Artifact]) -> None:
    first = begun(registry, planned("a/prod"))
    assert fleet.busy(registry) == {"a/prod": first}
    with pytest.raises(Usage, match=f"a/prod: {first} has begun meanwhile; let it end"):
        begun(registry, planned("a/prod", "b/prod"))
    assert [schedule.name for schedule in registry.schedules.ls()] == [first], "nothing of the second"
    begun(registry, planned("b/prod"))


def _killed_at_work(home: Path, name: str, ready: Any) -> None:
    """In a process of its own: takes a run, moves its channel, and comes to no end."""
    with Registry.open(home) as registry:
        claim = registry.scheduled_runs.claim(name, 1)
        assert claim is not None
        current = registry.channels.get(claim.run.channel)
        assert current is not None
        made = next(one for one in registry.ls(kind="quantized") if one.id != current.artifact_id)
        registry.channels.move(claim.run.channel, made.id, current.generation, waiver=WAIVER)
        ready.send(made.id)
        signal.pause()


def test_after_kill_9_it_goes_on_and_what_had_moved_is_known(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = begun(registry, planned("a/prod", "b/prod"))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_killed_at_work, args=(registry.home, name, theirs)
    )
    process.start()
    assert ours.poll(seconds(60))
    moved_to = ours.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(seconds(10))
    began: list[str] = []

    def run(self: Any, schedule: Any, claim: Any) -> Ended:
        began.append(claim.channel)
        current = registry.channels.get(claim.channel)
        assert current is not None
        note, state = f"{claim.channel} {lanes.HAD_IT}", "passed"
        if current.artifact_id != moved_to:
            current = registry.channels.move(claim.channel, moved_to, current.generation, waiver=WAIVER)
            note, state = f"generation {current.generation}", "promoted"
        return Ended(state=state, note=note, artifact_id=moved_to)

    monkeypatch.setattr(lanes.Lane, "_run", run)
    assert main(["upgrade-base", "--resume", name]) == 0
    assert sorted(began) == ["a/prod", "b/prod"]
    assert states(registry, name) == {"a/prod": "promoted", "b/prod": "promoted"}
    assert [one.came for one in undo(registry, name, "ada")] == ["back", "back"]
    assert set(serves(registry, "a/prod", "b/prod")) == {models["gguf"].id}


def test_a_canary_of_an_upgrade_is_stopped_or_its_move_undone(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = models["gptq"].id

    def run(self: Any, schedule: Any, claim: Any) -> Ended:
        registry.rollouts.start(claim.channel, candidate, 10, 0, "tuneline run", "a canary")
        return Ended(state="passed", note=f"{claim.channel} stays where it is", artifact_id=candidate)

    monkeypatch.setattr(lanes.Lane, "_run", run)
    name = begun(registry, planned("a/prod", "b/prod"))
    go_on(registry, name)
    assert states(registry, name) == {"a/prod": "passed", "b/prod": "passed"}
    registry.channels.move("b/prod", candidate, 1, waiver=WAIVER)  # as its judge does
    assert states(registry, name) == {"a/prod": "passed", "b/prod": "promoted"}
    assert [one.came for one in undo(registry, name, "ada")] == ["stopped", "back"]
    assert registry.rollouts.current("a/prod") is None
    assert serves(registry, "a/prod", "b/prod") == [models["gguf"].id] * 2


def test_schedules_that_would_go_back_are_named(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    executing(monkeypatch, registry, models["gptq"])
    definition = checked(
        recipe_name="nightly",
        recipe=recipe_of("a/prod").model_dump(mode="json"),
        channels=("a/prod", "z/prod"),
    )
    registry.schedules.put("nightly", definition, "ada", replace=False)
    name = begun(registry, planned("a/prod", "b/prod"))
    go_on(registry, name)
    said = "Schedule nightly still has the recipe from before for a/prod: change it."
    assert main(["upgrade-base", "--show", name]) == 0
    assert said in capsys.readouterr().out
    changed = recipe_of("a/prod", "base.source=pico:7", "prepare.seed=5").model_dump(mode="json")
    registry.schedules.put("nightly", definition.model_copy(update={"recipe": changed}), "ada", replace=True)
    assert main(["upgrade-base", "--show", name]) == 0
    assert "still has the recipe" not in capsys.readouterr().out, "it was changed"
    registry.schedules.put("nightly", definition, "ada", replace=True)
    undo(registry, name, "ada")
    assert main(["upgrade-base", "--show", name]) == 0
    out = capsys.readouterr().out
    assert "still has the recipe" not in out, "what it makes is what is live"
    assert "Back with all that moved" not in out
    assert [(one.state, one.note) for one in fleet.upgraded(registry, name)] == [
        ("undone", "generation 3, by ada")
    ] * 2


def test_whoever_does_the_last_run_of_an_upgrade_ends_it(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a worker of Prefect, after the command was killed."""
    executing(monkeypatch, registry, models["gptq"])
    name = begun(registry, planned("a/prod", "b/prod"))
    claim = registry.scheduled_runs.claim(name, 1)
    assert claim is not None
    lanes.Lane(registry, settings(registry), name).work()
    assert [schedule.name for schedule in registry.schedules.ls()] == [name], "another lane has one"
    registry.scheduled_runs.put_back(claim, "interrupted")
    lanes.Lane(registry, settings(registry), name).work()
    assert registry.schedules.ls() == []
    own = fleet.definition_of(registry, name)
    registry.schedules.put("upgrade-new", own, "ada", replace=False)
    lanes.Lane(registry, settings(registry), "upgrade-new").work()
    assert len(registry.schedules.ls()) == 1, "it is just being begun, and has no runs yet"


def test_what_is_undone_while_a_run_is_at_work_begins_no_more_and_is_undone_after_it(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    executing(monkeypatch, registry, models["gptq"])
    run = lanes.Lane._run

    def undone_meanwhile(self: Any, schedule: Schedule, claim: ScheduledRun) -> Ended:
        for _ in range(2):
            with pytest.raises(Usage, match=r"still at work: .*; nothing more of it begins"):
                undo(registry, schedule.name, "ada")
        return run(self, schedule, claim)

    monkeypatch.setattr(lanes.Lane, "_run", undone_meanwhile)
    name = begun(registry, planned("a/prod", "b/prod"))
    go_on(registry, name)
    assert states(registry, name) == {"a/prod": "promoted", "b/prod": "skipped"}
    assert [one.came for one in undo(registry, name, "ada")] == ["back", "as before"]


def test_a_move_of_a_run_that_came_to_no_end_is_named(
    registry: Registry, models: dict[str, Artifact]
) -> None:
    steps = (*planned("a/prod", "b/prod").steps, Step("new/prod", "nothing", "it serves nothing yet"))
    name = begun(registry, UpgradePlan("pico:7", steps, 0.0))
    claims = [claim for _ in range(2) if (claim := registry.scheduled_runs.claim(name, 2)) is not None]
    assert [claim.run.channel for claim in claims] == ["a/prod", "b/prod"]
    registry.channels.move("a/prod", models["gptq"].id, 1, waiver=WAIVER)
    for claim in claims:
        registry.scheduled_runs.put_back(claim, "interrupted")
    came = {one.channel: (one.came, one.note) for one in undo(registry, name, "ada")}
    assert came["a/prod"][0] == "refused"
    assert came["a/prod"][1].startswith("generation 2 came after its run had begun, of which no end is known")
    assert came["b/prod"] == ("as before", "it did not move: skipped")
    assert came["new/prod"] == ("as before", "it did not move: unchanged")


def test_what_failed_after_it_had_moved_goes_back_and_what_a_gate_refused_is_not_the_upgrades(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Any, schedule: Schedule, claim: ScheduledRun) -> Ended:
        state = "refused"
        if claim.channel == "a/prod":
            registry.channels.move(claim.channel, models["gptq"].id, 1, waiver=WAIVER)
            state = "failed"
        return Ended(state=state, note="why", artifact_id=models["gptq"].id)

    monkeypatch.setattr(lanes.Lane, "_run", run)
    name = begun(registry, planned("a/prod", "b/prod"))
    go_on(registry, name)
    registry.channels.move("b/prod", models["gptq"].id, 1, waiver=WAIVER)
    assert states(registry, name) == {"a/prod": "failed", "b/prod": "refused"}
    assert [one.came for one in undo(registry, name, "ada")] == ["back", "as before"]
    assert serves(registry, "a/prod", "b/prod") == [models["gguf"].id, models["gptq"].id]


def test_a_schedule_that_is_only_called_so_is_no_upgrade(
    registry: Registry, models: dict[str, Artifact]
) -> None:
    recipe = recipe_of("a/prod").model_dump(mode="json")
    definition = checked(recipe_name="nightly", recipe=recipe, channels=("a/prod",))
    registry.schedules.put("upgrade-nightly", definition, "ada", replace=False)
    assert fleet.names(registry) == []
    with pytest.raises(Usage, match="no upgrade 'upgrade-nightly'"):
        undo(registry, "upgrade-nightly", "ada")
    assert len(registry.schedules.ls()) == 1


def test_what_is_served_is_not_moved_to_a_base_that_no_engine_holds(
    registry: Registry, models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = planned("a/prod").steps[0]
    new = models["gptq"]
    monkeypatch.setattr(hosts, "_made", lambda *_: (new, "pico-7-q8_0@1"))
    monkeypatch.setattr(hosts, "_served_over", lambda *_: {models["base"].id})
    assert [host.missing for host in hosts.hosts(registry, [step])] == [False], "nothing is served at all"

    def serving(artifact: Artifact) -> None:
        registry.endpoints.add(
            artifact_id=artifact.id,
            engine="llama.cpp",
            url="gateway engine 0",
            process=ProcessId.of(),
            log="x",
        )

    serving(models["base"])
    (host,) = hosts.hosts(registry, [step])
    assert (host.missing, host.name, host.channels) == (True, "pico-7-q8_0@1", ("a/prod",))
    kept = Step("apart/prod", "keep", "the same base", recipe_of("apart/prod"), 1.0)
    gguf = publish(
        registry, "adapter", "quantize", {"adapter.gguf": b"GGUF"}, (("quantized", models["adapter"]),),
        base=models["base"].manifest.base, quant=QuantSpec(method="gguf", requested={"type": "F16"}),
    )  # fmt: skip
    registry.channels.move("apart/prod", gguf.id, 0, waiver=WAIVER)
    assert [host.missing for host in hosts.hosts(registry, [kept])] == [False], "two would answer with it"
    assert [host.missing for host in hosts.hosts(registry, [replace(kept, does="replay")])] == [True]
    serving(new)
    assert [host.missing for host in hosts.hosts(registry, [step])] == [False]


def test_a_channel_that_would_need_an_engine_of_its_own_is_not_moved_from_under_its_tenants(
    registry: Registry, models: dict[str, Artifact]
) -> None:
    registry.channels.move("apart/prod", models["adapter"].id, 0, waiver=WAIVER)
    evaluate(registry, models["adapter"], models["dataset"], beneath=models["gptq"])  # it did not pass
    step = Step("apart/prod", "merge-only", "the same base", recipe_of("apart/prod", name="pico-smoke"), 1.0)
    assert hosts.on_their_own(registry, [step]) == [], "nothing is served at all"
    registry.endpoints.add(
        artifact_id=models["base"].id,
        engine="llama.cpp",
        url="gateway engine 0",
        process=ProcessId.of(),
        log="x",
    )
    assert hosts.on_their_own(registry, [step, planned("a/prod").steps[0]]) == ["apart/prod"]
    words = ["upgrade-base", "apart/prod", "--quant", "gptq", "--run"]
    plan = UpgradePlan("gptq", (step,), 0.0)
    with pytest.raises(Usage, match=r"apart/prod: an engine answers over a base now.* Nothing was begun"):
        command._begun(parser().parse_args(words), registry, plan)
    assert registry.schedules.ls() == []
    assert command._begun(parser().parse_args([*words, "--unserved"]), registry, plan)


def test_the_time_of_an_upgrade_is_when_it_was_begun(registry: Registry, models: dict[str, Artifact]) -> None:
    """A move to the same artifact from before is none of its own."""
    registry.channels.move("a/prod", models["gptq"].id, 1, waiver=WAIVER)
    registry.channels.rollback("a/prod", "not yet", "ada")
    name = begun(registry, planned("a/prod"))
    claim = registry.scheduled_runs.claim(name, 1)
    assert claim is not None
    assert claim.run.due <= datetime.now(UTC)
    registry.scheduled_runs.finish(claim, Ended(state="refused", artifact_id=models["gptq"].id))
    assert [one.came for one in undo(registry, name, "ada")] == ["as before"]
