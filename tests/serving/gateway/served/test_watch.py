"""Recorded questions that get no answer say nothing of the answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from registry.errors import StoreFailed
from serving.engine.adapter_pool import AdapterPool
from serving.engine.answer_check import ExpectedAnswer, as_recorded
from serving.gateway.admission import AdmissionQueue
from serving.gateway.config import Bounds, ServedSection
from serving.gateway.metrics import Metrics
from serving.gateway.request_policy import limits_of
from serving.gateway.served import watch as watching
from serving.gateway.served.watch import AnswerWatch

ANSWER = b'{"choices": [{"index": 0, "message": {"content": "Paris."}, "finish_reason": "stop"}]}'


class Asked:
    """In the place of a replica of a whole model: answers with this, or not at all."""

    def __init__(self, status: int = 200, body: bytes = ANSWER, error: Exception | None = None) -> None:
        self.name, self.artifact = "0-0", SimpleNamespace(id="a" * 64)
        self.endpoint: str | None = "e1"
        self.engine = SimpleNamespace(base="model", loaded=dict[str, str](), restarts=0, up=True)
        self.queue = AdmissionQueue(1, 0, 10.0)
        self._answer = status, body, error
        self.distrusted = list[str]()
        self.distrust = self.distrusted.append

    @contextlib.asynccontextmanager
    async def ask(self, request: Any, *_: str) -> AsyncIterator[Any]:
        status, body, error = self._answer
        if error is not None:
            raise error

        async def read() -> bytes:
            return body

        yield SimpleNamespace(status=status, read=read)


def asking(replica: Asked, monkeypatch: pytest.MonkeyPatch, turns: int = 1, **served: Any) -> AnswerWatch:
    expected = ExpectedAnswer(({"role": "user", "content": "Where?"},) * turns, "Paris.")
    monkeypatch.setattr(watching, "recorded_answers", lambda *_: [expected])
    registry = SimpleNamespace(get=lambda _: None, webhooks=SimpleNamespace(tell=lambda *_: 0))
    router, limits = SimpleNamespace(replicas=[replica]), limits_of(Bounds(messages=2), frozenset())
    return AnswerWatch(cast(Any, registry), cast(Any, router), Metrics(1), ServedSection(**served), limits)


@pytest.mark.parametrize(
    ("replica", "result"),
    [
        (Asked(), "as recorded"),
        (Asked(body=ANSWER.replace(b"Paris.", b"Rome.")), "otherwise"),
        (Asked(body=ANSWER.replace(b'"Paris."', b"null")), "otherwise"),
        (Asked(body=ANSWER.replace(b"Paris.", b"Par")), "otherwise"),
        (Asked(body=ANSWER.replace(b"Paris.", b"Par").replace(b"stop", b"length")), "as recorded"),
        (Asked(body=ANSWER.replace(b"Paris.", b" Paris. It is")), "as recorded"),
        (Asked(body=b"{}"), "unanswered"),
        (Asked(503, b"busy"), "unanswered"),
        (Asked(error=aiohttp.ClientConnectionError("gone")), "unanswered"),
        (Asked(error=TimeoutError()), "unanswered"),
    ],
)
def test_what_becomes_of_a_question(replica: Asked, result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = asking(replica, monkeypatch)
    for _ in range(30):
        assert asyncio.run(watch.ask()) in (result, None)
    assert replica.queue.inside == 0
    assert list(watch.states.values()) == (["taken out"] if result == "otherwise" else [])
    assert replica.distrusted == (["a" * 64] if result == "otherwise" else [])


def test_a_full_engine_and_a_question_too_large_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Asked()
    busy.queue.enter()
    assert asyncio.run(asking(busy, monkeypatch).ask()) == "left out"
    assert busy.queue.inside == 1
    assert asyncio.run(asking(Asked(), monkeypatch, turns=2).ask()) == "as recorded"
    assert asyncio.run(asking(Asked(), monkeypatch, turns=3).ask()) == "left out"


def test_an_answer_of_an_engine_that_ended_meanwhile_counts_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Asked(body=ANSWER.replace(b"Paris.", b"Rome."))
    watch, ask = asking(replica, monkeypatch), replica.ask

    @contextlib.asynccontextmanager
    async def and_end(*given: Any) -> AsyncIterator[Any]:
        async with ask(*given) as answer:
            replica.engine.restarts += 1
            yield answer

    monkeypatch.setattr(replica, "ask", and_end)
    for _ in range(30):
        assert asyncio.run(watch.ask()) == "otherwise"
    assert watch.states == {}


def test_who_has_no_recorded_answers_is_looked_up_again_and_keeps_nobody_else_from_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry was away, files could not be read, or the evaluation came later."""
    replica, expected = Asked(), [ExpectedAnswer(({"role": "user", "content": "Where?"},), "Paris.")]
    replica.engine.loaded = {"b" * 64: "adapter"}
    watch, looked = asking(replica, monkeypatch), list[str]()
    results: list[Any] = [StoreFailed("away"), KeyError("messages"), [], expected]

    def look(_: Any, artifact: str, *__: Any) -> Any:
        if artifact == "a" * 64:
            return expected
        looked.append(artifact)
        if isinstance(result := results[len(looked) - 1], Exception):
            raise result
        return result

    monkeypatch.setattr(watching, "recorded_answers", look)
    monkeypatch.setattr(watch._registry, "get", lambda artifact: artifact)
    for times in (1, 2, 3):
        for _ in range(3):
            assert asyncio.run(watch.ask()) == "as recorded", "of the engine's own model"
        assert len(looked) == times, "not at each question"
        watch._looked = {key: at - watching.LOOK_AGAIN for key, at in watch._looked.items()}
    assert len(asyncio.run(watch._models())) == 2
    assert len(looked) == 4


def test_each_of_several_engines_alike_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of a section's replicas has a record in the registry, and all begin at life 0."""
    told = set[str]()
    for _ in range(2):
        replica = Asked(body=ANSWER.replace(b"Paris.", b"Rome."))
        replica.endpoint = None
        watch = asking(replica, monkeypatch, take_out=False)
        monkeypatch.setattr(watch._registry.webhooks, "tell", lambda _, __, once: told.add(once))
        for _ in range(30):
            asyncio.run(watch.ask())
    assert len(told) == 2


def test_at_no_rate_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(per_hour: float) -> bool:
        watch = asking(Asked(), monkeypatch, per_hour=per_hour)
        watch.start()
        tasks = len(asyncio.all_tasks())
        await watch.stop()
        return tasks > 1

    assert asyncio.run(run(60))
    assert not asyncio.run(run(0))


@pytest.mark.parametrize(
    ("answer", "recorded", "is_so"),
    [
        ("Paris", "Paris.", True), (" Paris. It is", "Paris.", True), ("", "Paris.", False),
        ("Rome", "Paris.", False), ("paris", "Paris.", False),
    ],
)  # fmt: skip
def test_an_answer_is_as_recorded_as_far_as_both_go(answer: str, recorded: str, is_so: bool) -> None:
    assert as_recorded(answer, recorded) is is_so


def test_an_adapter_is_held_without_being_used() -> None:
    async def run() -> None:
        async def unload(_: str) -> None:
            engine.loaded.clear()

        engine = SimpleNamespace(loaded={"d": "name"}, slots=1, unload_adapter=unload)
        pool = AdapterPool(cast(Any, engine))
        with pool.hold("other") as name:
            assert name is None
        with pool.hold("d") as name:
            assert name == "name"
            leaving = asyncio.create_task(pool.drop("d"))
            await asyncio.sleep(0)
            assert engine.loaded, "it stays as long as it is held"
            with pool.hold("d") as again:
                assert again is None, "nobody else gets one that is leaving"
        await leaving
        assert not engine.loaded
        assert pool.counts.hits == 0

    asyncio.run(run())
