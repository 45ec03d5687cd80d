"""What is served says what it said when it was evaluated: at its start, and for as long as it is served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.run.find_or_make import as_parent, find_or_make, stage_inputs
from registry import Registry
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.leases import NO_WAIT
from serving.engine.answer_check import ExpectedAnswer, recorded_answers
from serving.engine.settings import EngineSettings
from serving.errors import NotServable
from serving.gateway.config import Bounds, ServeConfig, ServedSection
from serving.gateway.metrics import Metrics
from serving.gateway.replica import Replica
from serving.gateway.request_policy import limits_of, read
from serving.gateway.router import Router
from serving.gateway.served.watch import AnswerWatch
from serving.llama_cpp.engine import LlamaCppEngine
from serving.openai_api.errors import ApiError
from stages.config.evaluate import EvaluateConfig
from stages.contract import Facts
from stages.run import run_stage
from tests.e2e.conftest import Tuneline
from tests.e2e.served_faults import FAULTS, OF_ADAPTERS, making
from tests.seconds import seconds

Pico = tuple[Tuneline, dict[str, Any]]
LIMITS = limits_of(Bounds(), frozenset())
BASE = "pico-0-q8_0@1"
MOST = 60
"""Questions to the adapter and its base together, within which each fault is shown, and then is certain."""
SETTINGS = EngineSettings(context_length=256, parallel=1, adapters=0, threads=1)


@pytest.fixture(scope="module")
def registry(tenant: Pico) -> Registry:
    """With a finished run of `pico-smoke` and of `pico-tenant`, which makes a GGUF of the base."""
    return Registry.open(tenant[0].home)


def start(file: Path, recorded: list[ExpectedAnswer], log: Path) -> None:
    async def run() -> None:
        async with LlamaCppEngine("a" * 64, file, SETTINGS, log, recorded) as engine:
            assert engine.up

    asyncio.run(run())


def test_the_promoted_model_is_served_and_its_base_in_its_place_is_not(
    registry: Registry, tmp_path: Path
) -> None:
    promoted, base = registry.get("pico/smoke"), registry.get("pico-0-q8_0@1")
    recorded = recorded_answers(registry, promoted)
    assert len(recorded) == 8
    assert all(one.messages[-1]["role"] == "user" and one.answer for one in recorded)
    start(registry.view(promoted.id), recorded, tmp_path / "log")
    with pytest.raises(NotServable, match=r"none of 8 held-out questions .* another model may be answering"):
        start(registry.view(base.id), recorded, tmp_path / "log")


def test_what_was_only_measured_beside_another_has_no_answers_of_its_own(registry: Registry) -> None:
    assert recorded_answers(registry, registry.get("pico-0-q8_0@1")) == []
    evaluation = registry.evaluations(registry.get("pico/smoke").id)[0]
    root = next(p.id for p in evaluation.manifest.parents if p.relation == "tokenized_for")
    assert recorded_answers(registry, registry.get(root)) == []


@pytest.fixture(scope="module")
def measured(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A copy, in which the base's GGUF was evaluated by itself too: its random answers turn at a touch."""
    home = tmp_path_factory.mktemp("measured") / "home"
    shutil.copytree(registry.home, home, symlinks=True, ignore=shutil.ignore_patterns("views"))
    with Registry.open(home) as copied:
        known = copied.evaluations(copied.get("pico/tenant").id)[0].manifest.parents
        of = {parent.relation: parent.id for parent in known}
        parts = {"model": BASE, "base": of["tokenized_for"], "dataset": of["evaluated_on"]}
        parents = {role: copied.get(ref) for role, ref in parts.items()}
        task = {"kind": "heldout", "name": "routing", "max_items": 32, "max_new_tokens": 16}
        config = EvaluateConfig.model_validate({"tasks": [task]})

        def make(draft: Draft) -> tuple[Facts, ResourceUse]:
            seen = {role: as_parent(copied, parent) for role, parent in parents.items()}
            facts = Facts.model_validate(run_stage("evaluate", seen, config, draft.path))
            return facts, ResourceUse(datetime.now(UTC), 0.0)

        find_or_make(copied, stage_inputs("evaluate", config, parents), make, NO_WAIT)
        yield copied


@dataclass
class Watched:
    """A router over the base that the tenant's adapter was evaluated with; the adapter is loaded."""

    watch: AnswerWatch
    router: Router
    replica: Replica
    metrics: Metrics
    adapter: str
    path: Path

    async def until(self, state: str, artifact: str, most: int) -> int:
        """Ask until the engine has this state for the artifact; returns after how many questions to all."""
        for asked in range(1, most + 1):
            await self.watch.ask()
            known = {place.artifact_id: known for place, known in self.watch.states.items()}
            if known.get(artifact) == state:
                return asked
        raise AssertionError(f"not {state} after {most} questions: {self.watch.states}")

    async def use(self) -> None:
        """Ask as a client does, one question after the other, until this is cancelled."""
        for number in itertools.count():
            chat = [{"role": "user", "content": f"Count from {number}."}]
            body = json.dumps({"model": "x", "messages": chat, "max_tokens": 16}).encode()
            self.replica.queue.enter()
            try:
                async with (
                    self.replica.acquire(self.adapter, self.path) as name,
                    self.replica.ask(read(body, True, LIMITS), name, "salt", "id") as reply,
                ):
                    assert reply.status == 200
                    await reply.read()
            finally:
                self.replica.queue.leave(True)


@contextlib.asynccontextmanager
async def watching(registry: Registry, folder: Path, fault: str | None = None) -> AsyncIterator[Watched]:
    random.seed(14)  # of the questions: the engine answers each of them always alike
    engine = {"engine": "llama.cpp", "model": BASE, "context_length": 256, "threads": 1, "adapters": 2}
    config = ServeConfig.model_validate({"engines": [engine]})
    router, metrics = Router(registry, config, making(fault, folder)), Metrics(0)
    await router.start(registry.serving_state(), "")
    try:
        adapter = registry.get("pico/tenant").id
        replica, path = await router.replica_for(adapter)
        async with replica.acquire(adapter, path):
            pass
        watch = AnswerWatch(registry, router, metrics, config.served, LIMITS)
        yield Watched(watch, router, replica, metrics, adapter, path)
    finally:
        await router.stop()


def test_sound_engines_answer_as_recorded_under_load_and_nobody_pays(
    measured: Registry, tmp_path: Path
) -> None:
    async def run() -> None:
        async with watching(measured, tmp_path) as it:
            uses = it.replica.pool.counts.hits
            clients = [asyncio.create_task(it.use()) for _ in range(2)]
            for _ in range(40):
                assert await it.watch.ask() in ("as recorded", "otherwise")
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            assert it.watch.states == {}
            assert it.replica.pool.counts.hits > uses + 6, "the clients asked meanwhile"
            uses = it.replica.pool.counts.hits
            for _ in range(8):
                await it.watch.ask()
            assert it.replica.pool.counts.hits == uses
            assert it.replica.queue.inside == 0
            sample = 'tuneline_gateway_served_checks_total{engine="0-0",result="as recorded"}'
            text = it.metrics.text().decode()
            assert float(text.partition(sample)[2].split()[0]) >= 0.85 * 48
            assert "tuneline_gateway_served_state{" not in text
            await it.replica.pool.drop(it.adapter)
            await it.watch.ask()
            assert it.adapter not in it.replica.engine.loaded, "it would be loaded for the question alone"

    before = measured.outcomes.read("pico/tenant")
    asyncio.run(run())
    assert measured.outcomes.read("pico/tenant") == before


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_taken_out(measured: Registry, tmp_path: Path, fault: str) -> None:
    hook, _ = measured.webhooks.add("https://example.org/hook", ["drift"], "tests")

    async def run() -> str:
        async with watching(measured, tmp_path, fault) as it:
            base = it.replica.artifact.id
            wrong, other = (it.adapter, base) if fault in OF_ADAPTERS else (base, it.adapter)
            await it.until("alarm", wrong, MOST)
            assert it.replica.trusts(wrong), "it is not certain yet"
            await it.until("taken out", wrong, MOST)
            with pytest.raises(ApiError, match="no engine here answers as artifact") as refused:
                await it.router.replica_for(wrong)
            assert (refused.value.status, refused.value.body["error"]["code"]) == (503, "not_as_evaluated")
            state = f'tuneline_gateway_served_state{{artifact="{wrong[:12]}",engine="0-0"}} 2.0'
            assert state in it.metrics.text().decode()
            if fault in OF_ADAPTERS:
                assert (await it.router.replica_for(other))[0] is it.replica, "what it answers rightly stays"
            if fault == FAULTS[0]:
                await only_an_alarm(measured, it)
                await another_life(it)
            return wrong

    wrong = asyncio.run(run())
    told = [json.loads(delivery.body) for delivery in measured.webhooks.claim(60, 20)]
    measured.webhooks.remove(hook.id, "tests")
    about = [one["about"] for one in told if one["event"] == "drift" and one["about"]["artifact"] == wrong]
    states = ["alarm", "taken out", *(["alarm"] if fault == FAULTS[0] else [])]  # the last of `only_an_alarm`
    assert [(one["what"], one["state"]) for one in about] == [("answers", state) for state in states]


async def only_an_alarm(registry: Registry, it: Watched) -> None:
    """With `take_out: false`, whatever else is shown."""
    first = it.watch
    it.watch = AnswerWatch(registry, it.router, Metrics(0), ServedSection(take_out=False), LIMITS)
    await it.until("alarm", it.adapter, MOST)
    for _ in range(40):
        await it.watch.ask()
    assert list(it.watch.states.values()) == ["alarm"]
    it.watch = first


async def another_life(it: Watched) -> None:
    """After a restart the engine is judged anew: nothing of the old one is held against it."""
    pid = it.replica.engine.pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(seconds(30)):
        while not (it.replica.engine.restarts and it.replica.engine.up):
            await asyncio.sleep(0.05)
    assert (await it.router.replica_for(it.adapter))[0] is it.replica
    async with it.replica.acquire(it.adapter, it.path):
        pass
    await it.watch.ask()
    assert it.watch.states == {}
    assert "tuneline_gateway_served_state{" not in it.metrics.text().decode()
