"""What a look leaves in Prefect, whose answers are played: further looks, and lanes for what may begin."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flows.errors import Usage
from flows.recipe import load
from flows.retraining.lane import Lane
from flows.retraining.look import coming
from registry import Registry
from registry.schedules.occasions import Planned
from registry.schedules.schedules import checked
from tests.seconds import seconds


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with Registry.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The flow, as a worker of Prefect's runs it; its lane does nothing."""
    module = import_module("flows.retraining.flow")
    monkeypatch.setattr(module, "_by_prefect", lambda: True)
    monkeypatch.setattr(Lane, "work", lambda _: [])
    return module


@pytest.fixture
def woken(flow: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Flow runs that Prefect was asked for."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(flow, "run_deployment", lambda _, **given: asked.append(given))
    return asked


def nightly(registry: Registry, **limits: Any) -> None:
    recipe = load("pico-tenant").model_dump(mode="json")
    channels = tuple(f"{team}/prod" for team in "abcd")
    definition = checked(recipe_name="pico", recipe=recipe, channels=channels, limits=limits)
    registry.schedules.put("nightly", definition, "ada", replace=False)
    occasion = registry.occasions.ask("nightly", "manual", "asked for")
    runs = [Planned(target=channel, channel=channel) for channel in channels]
    registry.occasions.plan(occasion, 1, runs)


def lanes(woken: list[dict[str, Any]]) -> int:
    return sum(one["parameters"].get("lane", False) for one in woken)


def test_lanes_are_started_for_what_may_begin(
    registry: Registry, flow: ModuleType, woken: list[dict[str, Any]]
) -> None:
    nightly(registry, at_once=3)
    flow.retrain.fn("nightly")
    assert (lanes(woken), len(woken)) == (2, 4), "two beside this one, and two looks"
    woken.clear()
    assert registry.scheduled_runs.claim("nightly", 3) is not None
    for run in registry.scheduled_runs.open("nightly"):
        registry.scheduled_runs.put_off(run, "tomorrow", time.time() + 86_400)
    flow.retrain.fn("nightly")
    assert (lanes(woken), len(woken)) == (0, 2), "looks for the one at work; what is put off needs no lane"
    assert all(one["idempotency_key"].startswith("nightly ") for one in woken)


def test_a_look_that_begins_half_a_second_early_sees_what_it_was_begun_for(
    registry: Registry, flow: ModuleType, woken: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load("pico-tenant").model_dump(mode="json")
    cron = [{"on": "cron", "at": "0 3 * * *"}]
    definition = checked(recipe_name="pico", recipe=recipe, channels=("a/prod",), triggers=cron)
    registry.schedules.put("nightly", definition, "ada", replace=False)
    due = next(coming(registry.schedules.get("nightly"), datetime.now(UTC)))
    begun = SimpleNamespace(flow_run=None)
    monkeypatch.setattr(flow.FlowRunContext, "get", lambda: begun)
    flow.retrain.fn("nightly")
    assert registry.scheduled_runs.open("nightly") == []
    begun.flow_run = SimpleNamespace(expected_start_time=due, deployment_id="d", id="f")
    monkeypatch.setattr(flow, "_parent", lambda: None)
    flow.retrain.fn("nightly")
    assert [run.due for run in registry.scheduled_runs.open("nightly")] == [due]


def test_settings_with_which_no_run_can_begin_are_not_looked_at_each_minute(
    registry: Registry, flow: ModuleType, woken: list[dict[str, Any]]
) -> None:
    nightly(registry, at_once=3, night_cost=5)
    with pytest.raises(Usage, match="there are no prices of an hour here"):
        flow.retrain.fn("nightly")
    assert woken == []
    assert len(registry.scheduled_runs.open("nightly")) == 4


PRINTS = """
import sys
from flows.retraining.flow import outlive_worker
from prefect.logging import get_logger
outlive_worker()
sys.stdin.readline()
for number in range(3):
    get_logger('flow_runs').warning('line %d', number)
with open(sys.argv[1], 'w') as file:
    file.write('went on')
"""


def test_a_flow_run_goes_on_whose_worker_was_killed(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    command = [sys.executable, "-c", PRINTS, str(tmp_path / "end")]
    environment = {**os.environ, "TUNELINE_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writes, stderr=writes, env=environment)
    os.close(writes)
    os.close(reads)
    process.communicate(b"\n", timeout=seconds(60))
    assert (process.returncode, (tmp_path / "end").read_text()) == (0, "went on")
