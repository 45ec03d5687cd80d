"""Adapters over one base, in this process: whose answer it is, and that a wrong one would be noticed.

Each engine defect that others had is put into this engine on purpose, and the isolation check has to find it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serving.errors import Overloaded
from serving.llama_cpp import scheduler
from serving.llama_cpp.loaded_adapters import LoadedAdapter
from serving.llama_cpp.sampling import Sampling
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer, next_batch
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary, Family
from tests.serving.llama_cpp.asking import BASE, asked, load, name_of, say


async def _crossfire(http: httpx.AsyncClient, canaries: list[Canary], salt: str | None = "t") -> list[str]:
    """Every question to every adapter and back again, at once; returns what was answered wrongly."""

    async def one(canary: Canary, question: str) -> str:
        said = await say(http, name_of(canary), question, cache_salt=salt)
        return "" if said == canary.answer else f"{said!r} instead of {canary.answer!r}"

    rounds = [(canary, question) for question in QUESTIONS for canary in canaries * 2]
    return [wrong for wrong in await asyncio.gather(*(one(*each) for each in rounds)) if wrong]


def test_each_adapter_gives_its_own_answer_at_any_mix(batcher: Batcher, family: Family) -> None:
    first, second, _ = family.canaries
    load(batcher, first)
    load(batcher, second)

    async def work(http: httpx.AsyncClient) -> None:
        before = await say(http, BASE)
        assert await _crossfire(http, [first, second]) == []
        assert await _crossfire(http, [first, second], salt=None) == []
        assert await say(http, BASE) == before
        assert before not in (first.answer, second.answer)

    asked(batcher, work)
    assert batcher.counts.cached_tokens > 0, "beginnings were used again, and only by their owners"
    assert batcher.counts.failed == 0


def test_a_prefix_is_used_again_only_by_the_same_adapter_and_salt(batcher: Batcher, family: Family) -> None:
    first, second, _ = family.canaries
    load(batcher, first)
    load(batcher, second)

    async def cached(http: httpx.AsyncClient, canary: Canary, salt: str | None) -> int:
        body = {"model": name_of(canary), "prompt": "The same long prompt for everybody, word by word.",
                "max_tokens": 1, "cache_salt": salt}  # fmt: skip
        usage = (await http.post("/v1/completions", json=body)).json()["usage"]
        assert usage["prompt_tokens"] > 5
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    async def work(http: httpx.AsyncClient) -> None:
        assert await cached(http, first, "a") == 0
        assert await cached(http, first, "b") == 0, "another tenant"
        assert await cached(http, second, "a") == 0, "another adapter"
        assert await cached(http, first, "a") > 5
        assert await cached(http, first, None) == 0, "without a salt, nothing is shared"
        batcher.unload(name_of(first)).result(seconds(10))
        await asyncio.to_thread(load, batcher, first)
        assert await cached(http, first, "a") == 0, "a new load begins empty"

    asked(batcher, work)


def _same_key(adapter: LoadedAdapter, answer: Answer) -> tuple[Any, ...]:
    return (0, answer.salt)


def test_keys_without_the_adapter_would_be_noticed(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp 26207: the prompt cache of one adapter served another."""
    first, second, _ = family.canaries
    load(batcher, first)
    load(batcher, second)
    monkeypatch.setattr(scheduler, "cache_key", _same_key)
    assert asked(batcher, lambda http: _crossfire(http, [first, second])), "the check found nothing"


def test_an_adapter_that_is_not_switched_would_be_noticed(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM 47724: a request in flight was answered with the adapter of another."""
    first, second, _ = family.canaries
    load(batcher, first)
    load(batcher, second)
    monkeypatch.setattr(batcher.loaded, "use", lambda adapter: False)
    assert asked(batcher, lambda http: _crossfire(http, [first, second])), "the check found nothing"


def test_a_full_queue_turns_away_and_one_line_cannot_fill_it(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "_limit", 1)  # beside three at once
    monkeypatch.setattr(batcher, "_admit", lambda: None)
    load(batcher, family.canaries[0])

    def answer(name: str) -> tuple[Answer, list[Any]]:
        heard: list[Any] = []
        return Answer(name, (5, 6, 7), 200, Sampling(temperature=0), None, heard.append), heard

    crowd = [answer(BASE) for _ in range(4)]
    batcher.submit(*(one for one, _ in crowd[:3]))
    with pytest.raises(Overloaded, match=r"3 answers are waiting, 2 more are asked for, .* room for 4"):
        batcher.submit(answer(BASE)[0], answer(BASE)[0])
    batcher.submit(crowd[3][0])
    name = name_of(family.canaries[0])
    with pytest.raises(Overloaded):
        batcher.submit(*(answer(name)[0] for _ in range(3)))
    assert not any(heard for _, heard in crowd), "who is refused puts nobody out"
    mine = [answer(name)[0] for _ in range(2)]
    batcher.submit(*mine)
    assert [len(heard) for _, heard in crowd] == [0, 0, 1, 1], "the newest of the long line"
    assert batcher.queued() == {BASE: (2, 0), name: (2, 0)}
    with pytest.raises(Overloaded):
        batcher.submit(answer(BASE)[0])
    batcher.cancel(mine[0])
    batcher.submit(answer(BASE)[0])
    assert batcher.queued() == {BASE: (3, 0), name: (1, 0)}, "a place is free as soon as nobody wants it"


def test_temperature_zero_repeats_itself(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        said = [await say(http, BASE, tokens=24) for _ in range(3)]
        assert len(set(said)) == 1
        drawn = [await say(http, BASE, tokens=8, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        for nearly in (5e-324, 1e-45, 1e-38, 1e-20):  # a logit divided by some of these is no float any more
            assert await say(http, BASE, tokens=24, temperature=nearly) == said[0]

    asked(batcher, work)


def _under_way(prompt: int, read: int, sequence: int) -> Answer:
    answer = Answer(BASE, tuple(range(prompt)), 8, Sampling(), None, lambda _: None)
    answer.read, answer.sequence = read, sequence
    return answer


def test_a_batch_is_in_the_order_of_its_sequences() -> None:
    """Answers under way 2, 0, 3 and a prompt of 600 in 1: llama.cpp would otherwise compute them in turn."""
    answering = [_under_way(10, 9, sequence) for sequence in (2, 0, 3)]
    prompt = _under_way(600, 0, 1)
    entries, ready = next_batch([prompt, *answering])
    assert [entry[2] for entry in entries] == [0, *[1] * 509, 2, 3], "next tokens first, then the prompt"
    assert [entries[at] for _, at in ready] == [(9, 9, 0, True), (9, 9, 2, True), (9, 9, 3, True)]
    assert [answer.sequence for answer, _ in ready] == [0, 2, 3]
    assert (prompt.read, sum(entry[3] for entry in entries)) == (509, 3)
    entries, ready = next_batch([prompt])
    assert (len(entries), ready) == (91, [(prompt, 90)])
    assert next_batch([prompt]) == ([], [])
