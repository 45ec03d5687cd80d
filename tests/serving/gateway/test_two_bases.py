"""An upgrade of bases while tenants are served: one gateway with both bases, each tenant on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.retraining.lane import Lane
from flows.settings import Settings
from flows.upgrades import fleet
from flows.upgrades.hosts import hosts
from flows.upgrades.plan import Step, UpgradePlan
from flows.upgrades.undo import undo
from registry import Registry
from registry.schedules.definition import ScheduleLimits
from registry.schedules.runs import Ended
from tests.flows.upgrades.made_by_recipes import recipe_of
from tests.serving.gateway.live_gateway import LLAMA, Gateway, running, until
from tests.serving.populated_registry import WAIVER, kept_registry

UPGRADED = "team/moves"
STEP = Step(UPGRADED, "replay", "another base", recipe_of(UPGRADED, "base.source=pico:7", "adapter.base=F16"))


@pytest.fixture
def gateway(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Gateway]:
    """With the base of all adapters but one, and with the base of that one, the `stranger`."""
    populated = kept_registry(pytestconfig.rootpath, tmp_path / "home", 3)
    with Registry.open(populated.home) as registry:
        (host,) = hosts(registry, [STEP])
    engines = [LLAMA, LLAMA | {"model": host.name}]
    with running(populated, tmp_path, engines) as found:
        yield found


def test_both_bases_serve_while_one_tenant_after_the_other_moves_and_goes_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, (first, second, _) = gateway.registry, gateway.populated.adapters
    gateway.tenant("moves", first.gguf)
    gateway.tenant("stays", second.gguf)
    assert gateway.ask("moves") == (first.answer, first.gguf)
    (host,) = hosts(registry, [STEP])
    assert (host.name, host.missing) == ("pico-7-f16@1", False), "an engine of the gateway holds it"

    def replayed(self: Lane, schedule: Any, run: Any) -> Ended:
        """What was made over the new base, whose training is no matter of this test."""
        moved = registry.channels.move(run.channel, gateway.populated.stranger, 1, waiver=WAIVER)
        return Ended(state="promoted", note=f"generation {moved.generation}", artifact_id=moved.artifact_id)

    monkeypatch.setattr(Lane, "_run", replayed)
    name = fleet.begin(
        registry, UpgradePlan("pico:7", (STEP,), 0.0), ScheduleLimits(per_device=False), "UTC", "tests"
    )
    fleet.go_on(registry, Settings(home=registry.home), name, "tests", lambda _: None)
    until(lambda: gateway.ask("moves")[1] == gateway.populated.stranger, "the upgrade")
    assert gateway.ask("stays") == (second.answer, second.gguf), "the other tenant, on the base before"
    assert [one.came for one in undo(registry, name, "tests")] == ["back"]
    until(lambda: gateway.ask("moves") == (first.answer, first.gguf), "the upgrade is undone")
