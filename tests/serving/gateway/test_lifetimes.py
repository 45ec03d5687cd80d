"""Engines that follow a channel, an orderly end, and the gateway's reliability trials at a reduced size."""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry import Registry
from tests.reliability import gateway as trial
from tests.reliability import gateway_budgets, gateway_kills
from tests.serving.gateway.live_gateway import LLAMA, SLOWEST, Gateway, running, until
from tests.serving.populated_registry import WAIVER, kept_registry


@pytest.fixture
def whole(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose engine follows the channel `team/whole`, which points to a merged model."""
    populated = kept_registry(pytestconfig.rootpath, tmp_path / "home", 3)
    with Registry.open(populated.home) as registry:
        registry.channels.move("team/whole", populated.adapters[0].merged, 0, waiver=WAIVER)
    with running(populated, tmp_path, [LLAMA | {"model": "team/whole"}], grace_seconds=30) as found:
        yield found


def test_an_engine_follows_its_channel_and_ends_in_order(whole: Gateway) -> None:
    first, second, _ = whole.populated.adapters
    answers = {first.merged: first.answer, second.merged: second.answer}
    whole.tenant("whole", None)
    assert whole.ask("whole") == (first.answer, first.merged)
    receipts: list[str] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            text, receipt = whole.ask("whole")
            receipts.append(receipt if answers[receipt] == text else f"{text} for {receipt}")

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        whole.move("team/whole", second.merged)
        until(lambda: receipts[-1:] == [second.merged], "the move")
        whole.registry.channels.rollback("team/whole", "tests", "tests")
        whole.move("team/whole", second.merged)  # while the engine for the rollback may be starting
        until(lambda: whole.number("tuneline_engine_up") == 1 and receipts[-1:] == [second.merged], "both")
        whole.registry.channels.rollback("team/whole", "tests", "tests")
        until(lambda: receipts[-1:] == [first.merged], "the rollback")
    finally:
        done.set()
        asking.join()
    assert set(receipts) == {first.merged, second.merged}, "no request was lost, none was mixed up"

    def signed_on() -> list[str]:
        return [row.artifact_id for row in whole.registry.endpoints.ls(running_only=True)]

    until(lambda: signed_on() == [first.merged], "those that were replaced are signed off")

    body = {
        "model": "team/whole", "prompt": "Once", "max_tokens": 200, "stream": True, "temperature": 1.5,
        "seed": 1,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {whole.keys['whole']}"}
    with httpx.stream(
        "POST", f"{whole.url}/completions", json=body, headers=headers, timeout=SLOWEST
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        whole.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]", "what was under way is finished"
    assert whole.process.wait(SLOWEST) == 0
    assert not whole.processes()
    assert whole.spent("whole")[1] == 0


def test_right_answers_and_receipts_under_moves_and_rollbacks(tmp_path: Path) -> None:
    given = argparse.Namespace(
        engine="llama.cpp", requests=150, tenants=6, adapters=3, slots=2, at_once=12, parallel=4, changes=24,
        seed=1,
    )  # fmt: skip
    said = trial.run(given, tmp_path)
    assert (said["wrong"], said["lost"], said["restarts"]) == (0, 0, 0), said["examples"]
    assert said["moves"] > 0 < said["rollbacks"]
    assert said["pool"]["evictions"] > 0


def test_kill_9_of_engine_gateway_and_client_in_the_middle_of_streams(tmp_path: Path) -> None:
    started = gateway_kills.trial_in(tmp_path, 1)
    with started.registry:
        said = asyncio.run(gateway_kills.run(started, 3))
    assert said["kills"] == {"engine": 1, "gateway": 1, "client": 1}
    assert not said["longer than 30 s"]
    assert (said["wrong"], said["exit code at the end"]) == (0, 0), said["examples"]
    for name in ("budgets over their limit", "budgets below what was delivered", "still reserved"):
        assert said[name] == [], name


def test_a_small_budget_and_a_hundred_requests_at_once_through_two_gateways(tmp_path: Path) -> None:
    said = gateway_budgets.run(argparse.Namespace(rounds=1, requests=100, gateways=2), tmp_path)
    assert (said["over"], said["miscounted"], said["else"]) == (0, 0, 0)
    assert said["answered"] >= 1
