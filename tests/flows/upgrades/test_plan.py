"""What an upgrade decides for each channel, and why, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.planning.clock import Clock
from flows.run.arithmetic import with_compute_dtype
from flows.run.feed_input import at_watermark
from flows.settings import Settings
from flows.upgrades import plan as planning
from flows.upgrades.forms import form_of
from flows.upgrades.origin import Origins
from flows.upgrades.plan import Planner, UpgradePlan
from registry import Registry
from registry.artifacts import QuantSpec
from registry.feeds.rows import chat
from registry.schedules.schedules import checked
from registry.tenancy.tenants import Tenants
from stages.config.base import BaseConfig
from stages.config.deploy import DeployConfig
from stages.contract import Facts
from stages.quantization.gguf import GgufConfig
from tests.flows.lineages import base_reference, publish
from tests.flows.upgrades.made_by_recipes import POLICY, WAIVER, left_behind, made, recipe_of, served


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(planning, "clock_here", lambda *_: Clock())
    monkeypatch.setattr(planning, "settle", lambda recipe, *_: (with_compute_dtype(recipe, "float32"), None))
    with Registry.open(tmp_path / "home") as opened:
        yield opened


def planned(
    registry: Registry, *channels: str, to: str | None = "pico:7", quant: str | None = None
) -> UpgradePlan:
    base = None if to is None else BaseConfig(source=to)
    form = None if quant is None else form_of(quant)
    settings = Settings(home=registry.home, cache=registry.home / "cache")
    return Planner(registry, settings, base, form, quant is not None).plan(channels, None)


def only(plan: UpgradePlan) -> tuple[str, str]:
    (step,) = plan.steps
    return step.does, step.why


def test_another_base_is_a_replay_of_the_same_recipe_on_the_same_data(registry: Registry) -> None:
    recipe = recipe_of("t0/prod")
    served(registry, recipe)
    plan = planned(registry, "t0/prod")
    assert only(plan) == ("replay", "another base: trained again on the same data")
    replay = plan.steps[0].recipe
    assert replay is not None
    assert replay.base == BaseConfig(source="pico:7")
    assert (replay.prepare, replay.train, replay.promote) == (recipe.prepare, recipe.train, recipe.promote)
    assert replay.gate is not None
    assert replay.gate.tasks[0].against == "live", "the channel's policy, not the recipe's gate"
    assert plan.steps[0].seconds is not None
    assert plan.seconds == pytest.approx(plan.shared + plan.steps[0].seconds)
    assert plan.shared > 0


def test_what_channels_share_is_counted_once(registry: Registry) -> None:
    for name in ("t0", "t1"):
        served(registry, recipe_of(f"{name}/prod", f"prepare.seed={name[1]}"))
    one, two = planned(registry, "t0/prod"), planned(registry, "t0/prod", "t1/prod")
    assert two.shared == one.shared
    assert [step.does for step in two.steps] == ["replay", "replay"]


def test_another_quantization_of_the_same_base_keeps_the_adapter(registry: Registry) -> None:
    served(registry, recipe_of("whole/prod", name="pico-smoke"))
    plan = planned(registry, "whole/prod", to=None, quant="q5_0")
    assert only(plan) == ("keep", "the same base, and the same adapter")
    recipe = plan.steps[0].recipe
    assert recipe is not None
    assert recipe.promote is not None
    assert recipe.promote.candidate == "gguf-q5_0"
    replay = planned(registry, "whole/prod", quant="q5_0")
    assert replay.seconds is not None
    assert plan.seconds is not None
    assert plan.seconds < replay.seconds, "nothing is trained"
    assert only(planned(registry, "whole/prod", to="pico:0")) == ("nothing", "it is on it already")


PAIRS = ("prepare.format=preferences", "train.method=dpo")


def test_an_adapter_trained_on_preferences_is_kept_too(registry: Registry) -> None:
    served(registry, recipe_of("whole/prod", *PAIRS, name="pico-smoke"))
    assert only(planned(registry, "whole/prod", to=None, quant="q5_0")) == (
        "keep", "the same base, and the same adapter",
    )  # fmt: skip
    assert only(planned(registry, "whole/prod"))[0] == "replay"


def test_a_recipe_that_trains_on_preferences_since_is_another_one(registry: Registry) -> None:
    served(registry, recipe_of("whole/prod", PAIRS[0], name="pico-smoke"), known=False)
    left_behind(registry, recipe_of("whole/prod", *PAIRS, name="pico-smoke"))
    does, why = only(planned(registry, "whole/prod", to=None, quant="q5_0"))
    assert does == "refused"
    assert "its recipe changed since it was made" in why


def test_a_form_that_the_channel_has_is_nothing_to_do(registry: Registry) -> None:
    """Whatever else its recipe makes, and however it deploys."""
    recipe = recipe_of("whole/prod", name="pico-smoke")
    served(registry, recipe, known=False)
    more = {"quantize": (GgufConfig(type="Q5_1"), *recipe.quantize), "deploy": DeployConfig()}
    left_behind(registry, recipe.model_copy(update=more))
    (config,) = recipe.quantize
    assert isinstance(config, GgufConfig)
    assert only(planned(registry, "whole/prod", to=None, quant=config.type)) == (
        "nothing", "it is on it already",
    )  # fmt: skip
    assert only(planned(registry, "whole/prod", to=None, quant="q5_1"))[0] == "keep"


def test_many_channels_ask_the_registry_no_more_for_what_schedules_know(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of("t0/prod").model_dump(mode="json")
    registry.tenants.add("acme", "t0/prod", "ada")
    definition = checked(recipe_name="pico-tenant", recipe=recipe, tenants="a*")
    registry.schedules.put("nightly", definition, "ada", replace=False)
    asked, listed = list[str](), Tenants.ls
    monkeypatch.setattr(Tenants, "ls", lambda self: asked.append("tenants") or listed(self))  # type: ignore[func-returns-value]
    origins = Origins(registry)
    assert [len(list(origins._known(f"t{number}/prod"))) for number in range(5)] == [1, 0, 0, 0, 0]
    assert asked == ["tenants"]


def test_an_adapter_that_no_engine_loads_over_the_form_is_merged(registry: Registry) -> None:
    served(registry, recipe_of("t0/prod"))
    plan = planned(registry, "t0/prod", to=None, quant="gptq")
    assert only(plan) == (
        "merge-only", "the same base; merged, since no engine here loads adapters over that form",
    )  # fmt: skip
    recipe = plan.steps[0].recipe
    assert recipe is not None
    assert (recipe.adapter, [one.label for one in recipe.quantize]) == (None, ["gptq-4bit"])


def test_what_was_trained_by_other_versions_is_trained_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(registry, recipe_of("whole/prod", name="pico-smoke"))
    monkeypatch.setattr("stages.train.VERSION", 99)
    does, why = only(planned(registry, "whole/prod", to=None, quant="q5_0"))
    assert (does, why) == ("replay", "the tools or its base have changed: trained again")


def test_the_recipe_is_found_in_schedules_too_and_in_their_earlier_versions(registry: Registry) -> None:
    recipe = recipe_of("t0/prod")
    served(registry, recipe, known=False)
    does, why = only(planned(registry, "t0/prod"))
    assert (does, why.partition(":")[0]) == ("refused", "no recipe for it is known here")
    definition = checked(
        recipe_name="pico-tenant", recipe=recipe.model_dump(mode="json"), channels=("t0/prod",)
    )
    registry.schedules.put("nightly", definition, "ada", replace=False)
    assert only(planned(registry, "t0/prod"))[0] == "replay"
    other = recipe_of("t0/prod", "train.learning_rate=0.5").model_dump(mode="json")
    later = checked(recipe_name="pico-tenant", recipe=other, channels=("t0/prod",))
    registry.schedules.put("nightly", later, "ada", replace=True)
    registry.schedules.remove("nightly", "ada")
    assert only(planned(registry, "t0/prod"))[0] == "replay"


def test_a_recipe_of_another_base_is_not_the_one_that_made_it(registry: Registry) -> None:
    """Such as an upgrade's that was undone, which is the latest run of the channel."""
    served(registry, recipe_of("whole/prod", name="pico-smoke"))
    left_behind(registry, recipe_of("whole/prod", "base.source=pico:7", name="pico-smoke"))
    (step,) = planned(registry, "whole/prod", to=None, quant="q5_0").steps
    assert step.does == "keep"
    assert step.recipe is not None
    assert step.recipe.base.source == "pico:0"


def test_data_or_a_recipe_that_changed_since_is_refused(registry: Registry, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    data = (f"prepare.source=path:{rows}", "prepare.format=auto")
    served(registry, recipe_of("t0/prod", *data))
    assert only(planned(registry, "t0/prod"))[0] == "replay"
    rows.write_text('{"prompt": "c", "completion": "d"}\n')
    does, why = only(planned(registry, "t0/prod"))
    assert (does, why.partition(",")[0]) == ("refused", "its data changed since it was made")
    rows.unlink()
    assert only(planned(registry, "t0/prod"))[1].startswith("its data changed")
    served(registry, recipe_of("t1/prod"), known=False)
    left_behind(registry, recipe_of("t1/prod", "train.seed=3"))
    assert only(planned(registry, "t1/prod"))[1].startswith("its recipe changed")


def test_rows_forgotten_before_it_was_made_do_not_refuse_it_and_those_since_do(registry: Registry) -> None:
    for tenant in ("acme", "other"):
        registry.tenants.add(tenant, "t0/prod", "ada")
        turns = [{"role": "user", "content": tenant}, {"role": "assistant", "content": "yes"}]
        registry.feeds.add("tickets", [replace(chat(turns, "here", "file"), tenant=tenant)], "ada")
    registry.forgettings.forget("ada", tenant="acme")
    recipe = recipe_of("t0/prod", "prepare.source=feed:tickets", "prepare.format=auto")
    served(registry, at_watermark(recipe, registry), known=False)
    left_behind(registry, recipe)
    plan = planned(registry, "t0/prod")
    assert only(plan) == ("replay", "another base: trained again on the same data")
    assert plan.seconds is not None, "the feed's rows are counted"
    registry.forgettings.forget("ada", tenant="other")
    assert only(planned(registry, "t0/prod"))[0] == "refused"


def test_who_cannot_be_judged_or_replayed_is_refused_by_name(registry: Registry) -> None:
    none = QuantSpec(method="none")
    base = publish(
        registry, "base", "resolve", {"model.safetensors": b"0"}, base=base_reference(), quant=none
    )
    foreign = publish(
        registry, "adapter", "import", {"adapter_model.safetensors": b"1"}, (("adapter", base),),
        base=base_reference(), quant=none,
    )  # fmt: skip
    registry.channels.move("foreign/prod", foreign.id, 0, waiver=WAIVER)
    served(registry, recipe_of("lax/prod"))
    lax = {"tasks": [{**POLICY["tasks"][0], "against": "parent"}]}
    registry.channels.set_policy("lax/prod", lax, "ada", "for a test")
    served(registry, recipe_of("tried/prod", "prepare.seed=5"))
    other = made(
        registry, "resolve", BaseConfig(source="pico:3"),
        Facts(kind="base", base=base_reference(source="pico:3"), quant=none),
    )  # fmt: skip
    registry.rollouts.start("tried/prod", other.id, 10, 0, "ada", "to see")
    registry.tenants.add("early", "early/prod", "ada")
    plan = planned(registry, "foreign/prod", "lax/prod", "tried/prod", "early/prod")
    said = {step.channel: (step.does, step.why) for step in plan.steps}
    assert said["foreign/prod"][0] == said["lax/prod"][0] == said["tried/prod"][0] == "refused"
    assert said["foreign/prod"][1].startswith("it was imported, so there is no recipe and no data")
    assert "add a rule `against: live`" in said["lax/prod"][1]
    assert said["tried/prod"][1].startswith("the canary of ")
    assert said["early/prod"] == ("nothing", "it serves nothing yet")
    assert plan.begun == []


BAD = [
    (["t0/prod"], "give --to BASE, --quant FORM, or both"),
    (["t9/prod", "--to", "pico:7"], "no channel 't9/prod'; `tuneline channels` lists them"),
    (["--tenants", "x*", "--to", "pico:7"], "no tenant is called 'x*'"),
    (["--to", "pico:7"], "give channels, as TEAM/NAME or a pattern"),
    (["t0/prod", "--to", "nowhere"], "'nowhere' is not a base source; expected hub:"),
    (["t0/prod", "--to", "path:/nowhere"], "/nowhere"),
    (["t0/prod", "--quant", "Q9_9"], "--quant Q9_9: "),
    (["t0/prod", "--to", "pico:7", "--zone", "Mars"], "time zone 'Mars' is not known here"),
    (["t0/prod", "--undo", "upgrade-1"], "take an upgrade's ID, and no channels"),
    (["--undo", "upgrade-1"], "no upgrade 'upgrade-1'; `tuneline upgrade-base` lists them"),
    (["--resume", "nightly"], "no upgrade 'nightly'"),
]


def test_bad_input_gets_one_message_and_begins_nothing(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    served(registry, recipe_of("t0/prod"))
    for words, message in BAD:
        assert main(["upgrade-base", *words]) == 3, words
        said = capsys.readouterr()
        assert message in said.err, words
        assert len(said.err.strip().splitlines()) == 1, words
    assert registry.schedules.ls() == []


def test_a_plan_is_one_table_and_begins_nothing(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served(registry, recipe_of("t0/prod"))
    registry.tenants.add("acme", "t0/prod", "ada")
    prices = tmp_path / "rates.yaml"
    prices.write_text("currency: EUR\nmachine_hour: 3600\n")
    monkeypatch.setenv("TUNELINE_RATES", str(prices))
    assert main(["upgrade-base", "--tenants", "a*", "--to", "pico:7", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    (step,) = document["steps"]
    assert (step["channel"], step["does"]) == ("t0/prod", "replay")
    assert step["cost"] == pytest.approx(step["seconds"]), "a EUR for a second"
    assert document["cost"] == pytest.approx(document["seconds"])
    assert main(["upgrade-base", "t0/*", "--to", "pico:7"]) == 0
    out = capsys.readouterr().out
    assert "Nothing was begun: --run begins it." in out
    assert registry.schedules.ls() == []
