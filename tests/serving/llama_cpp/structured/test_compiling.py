"""A tenant's share of the time for compiling, and what it leaves to others."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from serving.llama_cpp.api import Requests
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.structured import compiling
from serving.llama_cpp.structured.compiling import Compiler, CompileTimeSpent
from serving.llama_cpp.structured.constraints import Constraint, SchemaRefused
from tests.seconds import seconds
from tests.serving.llama_cpp.asking import BASE, asked, say

SCHEMAS: Iterator[dict[str, object]] = ({"const": f"value {number}"} for number in range(100))


class Work:
    """Plays a compilation; `seconds` of the processor's time each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.times, self.now, self._spent, self._seconds = 0, 1000.0, 0.0, seconds
        monkeypatch.setattr("serving.llama_cpp.structured.compiling.time.thread_time", lambda: self._spent)

    def __call__(self) -> Constraint:
        self.times += 1
        self._spent += self._seconds
        return None  # type: ignore[return-value]

    def refuse(self) -> Constraint:
        self()
        raise SchemaRefused("too much")


def test_time_comes_back_as_the_window_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, 0.4)

    async def run() -> None:
        compiler = Compiler(lambda: work.now)
        for _ in range(3):
            await compiler.compiled("a", "x", work)
            work.now += 2
        with pytest.raises(CompileTimeSpent, match=r"took 1 s to compile within 10 s") as refused:
            await compiler.compiled("a", "x", work)
        assert refused.value.retry_after == 4, "then the first of the three no longer counts"
        await compiler.compiled("b", "x", work)
        work.now += 3
        with pytest.raises(CompileTimeSpent, match=r"there is time again in 1 s"):
            await compiler.compiled("a", "x", work)
        work.now += 1
        await compiler.compiled("a", "x", work)

    asyncio.run(run())
    assert work.times == 5


def test_each_of_several_answers_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, 0.4)

    async def run() -> None:
        compiler = Compiler(lambda: work.now)
        with pytest.raises(CompileTimeSpent):
            await compiler.compiled("a", "x", work, count=4)
        assert len(await compiler.compiled("b", "x", work, count=2)) == 2

    asyncio.run(run())
    assert work.times == 5


def test_what_was_refused_costs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, 0.01)

    async def run() -> None:
        compiler = Compiler(lambda: work.now)
        for tenant in "aab":
            with pytest.raises(SchemaRefused, match=r"too much"):
                await compiler.compiled(tenant, "x", work.refuse)
        assert work.times == 2, "one tenant learns nothing of another's"
        work.now += 11
        for number in range(compiling.MOST_REFUSED + 1):
            with pytest.raises(SchemaRefused):
                await compiler.compiled("a", f"{number}", work.refuse)
        before = work.times
        for source, more in (("1", 0), ("0", 1)):
            with pytest.raises(SchemaRefused):
                await compiler.compiled("a", source, work.refuse)
            assert work.times == before + more, "the oldest is forgotten"

    asyncio.run(run())


def test_a_tenant_passes_what_another_compiles() -> None:
    finished = threading.Event()

    def large() -> Constraint:
        assert finished.wait(seconds(60))
        return None  # type: ignore[return-value]

    def usual() -> Constraint:
        policies.append(os.sched_getscheduler(0) if sys.platform == "linux" else None)
        return None  # type: ignore[return-value]

    policies: list[int | None] = []

    async def run() -> None:
        compiler = Compiler()
        first = asyncio.ensure_future(compiler.compiled("a", "x", large))
        second = asyncio.ensure_future(compiler.compiled("a", "y", usual))
        await compiler.compiled("b", "z", usual)
        assert not first.done()
        assert len(policies) == 1, "a tenant's own wait for each other"
        finished.set()
        await asyncio.gather(first, second)

    asyncio.run(run())
    assert policies == [os.SCHED_IDLE if sys.platform == "linux" else None] * 2


def test_those_who_compile_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, 0.1)

    async def run() -> int:
        compiler = Compiler(lambda: work.now)
        for number in range(50):
            work.now += compiling.WINDOW
            await compiler.compiled(f"{number}", "x", work)
        return len(compiler._tenants)

    assert asyncio.run(run()) == 1


def test_a_client_learns_when_to_try_again_and_others_notice_nothing(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "SECONDS", 1e-9)
    requests = Requests(batcher)

    async def ask(http: httpx.AsyncClient, salt: str) -> httpx.Response:
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": next(SCHEMAS)}}
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "cache_salt": salt}
        return await http.post("/v1/chat/completions", json={**body, "response_format": schema})

    async def work(http: httpx.AsyncClient) -> None:
        assert (await ask(http, "a")).status_code == 200
        refused = await ask(http, "a")
        assert refused.status_code == 429, refused.text
        assert refused.json()["error"]["code"] == "compile_time_spent"
        assert 5 < int(refused.headers["retry-after"]) <= 10
        assert (await ask(http, "b")).status_code == 200
        assert await say(http, BASE, cache_salt="a") == await say(http, BASE, cache_salt="b")

    asked(batcher, work, requests)
