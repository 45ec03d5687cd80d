"""Several answers to one request, and how likely their tokens were."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from serving.llama_cpp.api import Requests
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from tests.serving.canaries import Family
from tests.serving.llama_cpp.asking import BASE, asked, say
from tests.serving.llama_cpp.structured.test_constraints import ORDER, fitting

HOT = {"temperature": 1.5, "seed": 7}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


async def ask(http: httpx.AsyncClient, route: str = CHAT, **more: Any) -> dict[str, Any]:
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
    prompt = prompt if route == CHAT else {"prompt": "Once upon"}
    answer = await http.post(route, json={"model": BASE, "max_tokens": 8, **prompt, **more})
    assert answer.status_code == 200, answer.text
    if not more.get("stream"):
        found: dict[str, Any] = answer.json()
        return found
    parts = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    return joined(parts, route)


def joined(parts: list[dict[str, Any]], route: str) -> dict[str, Any]:
    """A stream, as though it had come whole."""
    choices: dict[int, dict[str, Any]] = {}
    for part in parts:
        for choice in part["choices"]:
            text = choice["delta"].get("content", "") if route == CHAT else choice["text"]
            held = choices.setdefault(choice["index"], {"text": "", "scores": [], "finish_reason": None})
            held["text"] += text
            held["scores"] += [choice["logprobs"]] if choice["logprobs"] else []
            held["finish_reason"] = held["finish_reason"] or choice["finish_reason"]
    return {"choices": [choices[index] for index in sorted(choices)], "usage": parts[-1].get("usage")}


def texts(answer: dict[str, Any]) -> list[str]:
    return [
        choice["message"]["content"] if "message" in choice else choice["text"]
        for choice in answer["choices"]
    ]


@pytest.mark.parametrize("route", [CHAT, TEXT])
def test_answers_differ_and_a_seed_gives_them_again(batcher: Batcher, route: str) -> None:
    """Five of them, though three are decoded at once. Of two tokens: later ones may be others by rounding, as
    no two batches are alike."""
    drawn = {**HOT, "max_tokens": 2}

    async def work(http: httpx.AsyncClient) -> None:
        five = await ask(http, route, n=5, **drawn)
        assert [choice["index"] for choice in five["choices"]] == [0, 1, 2, 3, 4]
        assert len(set(texts(five))) == 5
        assert texts(await ask(http, route, n=5, **drawn)) == texts(five)
        assert texts(await ask(http, route, **drawn)) == texts(five)[:1], "the first as it is alone"
        streamed = await ask(http, route, n=5, stream=True, stream_options={"include_usage": True}, **drawn)
        assert texts(streamed) == texts(five)
        one = await ask(http, route, **drawn)
        for answer in (five, streamed):
            assert all(choice["finish_reason"] in ("length", "stop") for choice in answer["choices"])
            assert answer["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"], "read once, paid once"
            assert 5 <= answer["usage"]["completion_tokens"] <= 10
            total = answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
            assert answer["usage"]["total_tokens"] == total

    asked(batcher, work)


def test_each_of_several_answers_fits_the_schema(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        more = {"n": 3, "response_format": fitting(ORDER), "max_tokens": 150, "logprobs": True, **HOT}
        whole, streamed = await ask(http, **more), await ask(http, stream=True, **more)
        assert len(set(texts(whole))) == 3
        for text in (*texts(whole), *texts(streamed)):
            jsonschema.validate(json.loads(text), ORDER)
        lowest = min(entry["logprob"] for entry in whole["choices"][0]["logprobs"]["content"])
        assert lowest < -5, "the model's own probability, before the schema ruled anything out"

    asked(batcher, work)


def test_log_probabilities_are_the_models_own(batcher: Batcher, family: Family) -> None:
    model = LlamaModel(family.gguf, context_length=256, sequences=1, threads=1)
    try:
        prompt = model.tokenize("Once upon", add_special=True)
        last = len(prompt) - 1
        model.decode([(token, at, 0, at == last) for at, token in enumerate(prompt)])
        logits = model.logits(last).astype(np.float64)
        expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())

        async def work(http: httpx.AsyncClient) -> None:
            for settings in ({"temperature": 0}, HOT | {"top_k": 5, "repetition_penalty": 1.5}):
                answer = await ask(http, TEXT, logprobs=3, max_tokens=1, **settings)
                scores = answer["choices"][0]["logprobs"]
                order = np.argsort(-expected)[:3]
                assert list(scores["top_logprobs"][0].values()) == pytest.approx(expected[order], abs=1e-3)
                (chosen,) = scores["token_logprobs"]
                assert np.abs(expected - chosen).min() < 1e-3
                if settings == {"temperature": 0}:
                    assert chosen == pytest.approx(expected.max(), abs=1e-3)
                    assert next(iter(scores["top_logprobs"][0])) == scores["tokens"][0]

        asked(batcher, work)
    finally:
        model.close()


def test_a_chats_scores_in_their_shape(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        whole = await ask(http, logprobs=True, top_logprobs=2, n=2, max_tokens=3, **HOT)
        streamed = await ask(http, logprobs=True, top_logprobs=2, n=2, max_tokens=3, stream=True, **HOT)
        for choice, other in zip(whole["choices"], streamed["choices"], strict=True):
            entries = choice["logprobs"]["content"]
            others = [entry for part in other["scores"] for entry in part["content"]]
            assert [entry["token"] for entry in entries] == [entry["token"] for entry in others]
            values = [entry["logprob"] for entry in others]
            # the second time more of the prompt is in the cache: other products, with AVX2 other roundings
            assert [entry["logprob"] for entry in entries] == pytest.approx(values, abs=5e-3)
            spelled = b"".join(bytes(entry["bytes"]) for entry in entries)
            assert spelled.decode(errors="replace") == choice["message"]["content"]
            for entry in entries:
                assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
                likeliest = [other["logprob"] for other in entry["top_logprobs"]]
                assert len(likeliest) == 2
                assert likeliest == sorted(likeliest, reverse=True)
                assert entry["logprob"] <= likeliest[0] <= 0
        bare = await ask(http, logprobs=True)
        assert bare["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
        assert (await ask(http))["choices"][0]["logprobs"] is None

    asked(batcher, work)


def test_what_a_stop_sequence_cuts_off_has_no_scores(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        text = texts(await ask(http, TEXT, max_tokens=20, temperature=0))[0]
        stop = text[len(text) // 2 : len(text) // 2 + 3]
        for stream in (False, True):
            cut = await ask(http, TEXT, max_tokens=20, logprobs=0, stop=[stop], stream=stream, temperature=0)
            choice = cut["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == (text.partition(stop)[0], "stop")
            shapes = choice["scores"] if stream else [choice["logprobs"]]
            tokens = [token for shape in shapes for token in shape["tokens"]]
            offsets = [offset for shape in shapes for offset in shape["text_offset"]]
            assert "".join(tokens).startswith(choice["text"])
            assert offsets[0] == 0
            assert offsets[-1] < len(choice["text"])

    asked(batcher, work)


def test_all_answers_are_queued_or_none(batcher: Batcher) -> None:
    batcher._limit = 4

    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "n": 7, "max_tokens": 2}
        assert len((await http.post(CHAT, json=body)).json()["choices"]) == 7, "three at once, four wait"
        body["n"] = 8
        refused = await http.post(CHAT, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert await say(http, BASE) == await say(http, BASE)
        assert batcher.queued() == {BASE: (0, 0)}

    asked(batcher, work)


def test_one_that_fails_ends_all(batcher: Batcher) -> None:
    """Of a schema that becomes too much while it is followed."""
    costly = fitting({"type": "string", "pattern": "^.*a.{3000}$"})

    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "n": 3, "max_tokens": 200}
        body |= {"response_format": costly, "temperature": 2}
        whole = await http.post(CHAT, json=body)
        assert (whole.status_code, whole.json()["error"]["code"]) == (400, "invalid_schema"), whole.text
        streamed = await http.post(CHAT, json=body | {"stream": True})
        assert '"invalid_schema"' in streamed.text
        assert "[DONE]" not in streamed.text
        await say(http, BASE)
        assert batcher.queued() == {BASE: (0, 0)}

    asked(batcher, work)


def test_answers_end_with_their_client(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(http, n=16, max_tokens=200)
        await say(http, BASE)
        assert batcher.queued() == {BASE: (0, 0)}

    asked(batcher, work, Requests(batcher))
