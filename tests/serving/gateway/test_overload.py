"""A gateway whose engine has more to do than it can, and what it writes down of whom it turns away."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from registry import Registry
from registry.errors import StoreFailed
from registry.tenancy.budgets import Ask
from registry.tenancy.tenants import TenantLimits
from serving.gateway.budgets import ledger as ledgers
from serving.gateway.budgets.ledger import Ledger, Reservation
from serving.openai_api.errors import ApiError
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import LLAMA, SLOWEST, Gateway, running, until
from tests.serving.populated_registry import kept_registry

LONGEST = seconds(1.0)
LONG = 40
"""Tokens; two answers of that length are under way at once."""
PLACES = 2 + 64


@pytest.fixture(scope="module")
def gateway(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("overload")
    populated = kept_registry(pytestconfig.rootpath, folder / "home", 3)
    engines = [LLAMA | {"adapters": 1, "parallel": 2, "queue": PLACES - 2}]
    with running(populated, folder, engines, bounds={"wait_seconds": LONGEST}) as found:
        yield found


def ask(http: httpx.Client, model: str) -> tuple[int, str, float]:
    """Status, reason of a refusal, and seconds until the first text, of a long answer of the base."""
    body = {"model": model, "messages": [{"role": "user", "content": "Go on"}], "max_tokens": LONG}
    began = time.monotonic()
    with http.stream("POST", "/chat/completions", json=body | {"stream": True}) as answer:
        if answer.status_code != 200:
            assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code, json.loads(answer.read())["error"]["code"], 0.0
        lines = answer.iter_lines()
        next(line for line in lines if '"content":"' in line)
        first = time.monotonic() - began
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    return 200, "", first


def test_overload_is_turned_away_before_it_waits_too_long(gateway: Gateway) -> None:
    key = gateway.tenant("crowd", gateway.populated.gguf, tokens_per_day=10**6)
    end = time.monotonic() + seconds(6)
    answered: list[tuple[float, float]] = []
    refused: list[str] = []

    def client() -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=gateway.url, headers=headers, timeout=SLOWEST) as http:
            while (began := time.monotonic()) < end:
                status, why, first = ask(http, "team/crowd")
                if status == 200:
                    answered.append((began, first))
                else:
                    refused.append(why)
                    threading.Event().wait(0.1)

    with ThreadPoolExecutor(32) as pool:
        for one in [pool.submit(client) for _ in range(32)]:
            one.result()
    assert set(refused) == {"overloaded"}
    later = [
        first for began, first in answered if began > end - seconds(4)
    ]  # at first nothing is known of the engine
    assert len(later) > 4
    assert statistics.median(later) < LONGEST
    assert max(later) < 3 * LONGEST
    assert gateway.settled("crowd") > LONG * len(answered)
    assert gateway.number("tuneline_engine_requests") == 0


def test_who_is_turned_away_for_overload_has_reserved_nothing(gateway: Gateway) -> None:
    """Else of so many at once some would be told that their budget is used up."""
    at_once = 3 * PLACES
    key = gateway.tenant("many", gateway.populated.gguf, tokens_per_day=PLACES * 256)
    with (
        httpx.Client(
            base_url=gateway.url, headers={"authorization": f"Bearer {key}"}, timeout=SLOWEST,
            limits=httpx.Limits(max_connections=None),
        ) as http,
        ThreadPoolExecutor(at_once) as pool,
    ):  # fmt: skip
        said = [one.result() for one in [pool.submit(ask, http, "team/many") for _ in range(at_once)]]
    refused = [why for status, why, _ in said if status != 200]
    assert len(refused) >= at_once - 2 * PLACES
    assert set(refused) == {"overloaded"}


def test_each_adapter_has_a_replica_of_its_own_and_each_replica_its_share(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    populated = kept_registry(pytestconfig.rootpath, tmp_path / "home", 3)
    with running(populated, tmp_path, [LLAMA | {"adapters": 2, "replicas": 2}]) as gateway:
        for number, adapter in enumerate(populated.adapters):
            gateway.tenant(f"t{number}", adapter.gguf)
        for _ in range(4):
            for number, adapter in enumerate(populated.adapters):
                assert gateway.ask(f"t{number}") == (adapter.answer, adapter.gguf)
        loads = [
            gateway.number("tuneline_engine_adapter_events_total", engine=engine, event="loads")
            for engine in ("0-0", "0-1")
        ]
    assert sorted(loads) == [1, 2]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as found:
        found.tenants.add("one", "team/one", "tests", TenantLimits(tokens_per_day=100))
        yield found


def test_a_reservation_whose_answer_was_lost_is_given_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = registry.budgets.reserve

    def lost(gateway: str, asks: list[Ask]) -> list[bool]:
        assert reserve(gateway, asks) == [True]
        raise StoreFailed("the connection was lost after the commit")

    ledger = Ledger(registry)
    ledger.start()
    try:
        monkeypatch.setattr(registry.budgets, "reserve", lost)
        with pytest.raises(ApiError) as refused:
            asyncio.run(ledger.reserve("one", 60, 100))
        assert refused.value.status == 503
        monkeypatch.setattr(registry.budgets, "reserve", reserve)
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        until(lambda: registry.budgets.spent("one", today) == (0, 0), "it is given back")
    finally:
        ledger.stop()


def test_a_gateway_that_only_settles_says_that_it_lives(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "BEAT_SECONDS", 0.2)
    beats: list[float] = []
    beat = registry.budgets.beat

    def counted(gateway: str) -> None:
        beats.append(time.monotonic())
        beat(gateway)

    monkeypatch.setattr(registry.budgets, "beat", counted)
    ledger = Ledger(registry)
    ledger.start()
    try:

        def settled() -> bool:
            ledger.settle(Reservation("0" * 32), 0)
            return len(beats) >= 5

        assert until(settled, "beats") < 10
    finally:
        ledger.stop()
    assert min(after - before for before, after in itertools.pairwise(beats)) >= 0.2
