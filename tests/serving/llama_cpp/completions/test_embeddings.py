"""Embeddings: the mean of the base's states over a text's tokens, as transformers has it, beside answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from serving.errors import Overloaded
from serving.llama_cpp.completions.embeddings import unit
from serving.llama_cpp.model import STATES_TOKENS, LlamaModel
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Failed
from serving.llama_cpp.states import BESIDE_ANSWERS, Texts, next_states, texts_of
from serving.openai_api.errors import ApiError
from stages.backends.hidden_states import hidden_states
from stages.backends.tokenizer import load_tokenizer
from tests.seconds import seconds
from tests.serving.canaries import Family
from tests.serving.llama_cpp.asking import BASE, asked, load, name_of, say

ROUTE = "/v1/embeddings"
TOLERANCE = 5e-3
"""Of the distance between two vectors of length 1: 16 bits for weights, keys and values, against float32."""
WORD = "The sea is wide and the night is long. "
TEXTS = ["a", "Who are you?", "Grüße aus Köln, 你好", WORD * 20]
"""The last has more tokens than three steps read."""


async def embed(http: httpx.AsyncClient, texts: str | Sequence[str], **more: Any) -> NDArray[np.float32]:
    """Vectors [texts, width]."""
    answer = await http.post(ROUTE, json={"model": BASE, "input": texts, **more})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["object"] == "list"
    assert [one["index"] for one in said["data"]] == list(range(len(said["data"])))
    return np.array([one["embedding"] for one in said["data"]], dtype=np.float32)


def expected(family: Family, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
    """By transformers, in float32; and the tokens of all texts."""
    tokenizer = load_tokenizer(family.base)
    network = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32).base_model.eval()
    means, tokens = [], 0
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            states = network(torch.tensor([ids])).last_hidden_state[0]
        means.append(unit(states.mean(0).numpy()))
        tokens += len(ids)
    return np.stack(means), tokens


def furthest(found: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - other, axis=1).max())


def test_a_vector_is_the_mean_of_transformers_states(batcher: Batcher, family: Family) -> None:
    vectors, tokens = expected(family, TEXTS)
    assert len(load_tokenizer(family.base)(TEXTS[-1])["input_ids"]) > 3 * STATES_TOKENS

    async def work(http: httpx.AsyncClient) -> None:
        found = await embed(http, TEXTS)
        print(f"furthest from transformers: {furthest(found, vectors):.2g}")
        assert furthest(found, vectors) < TOLERANCE
        assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
        apart = np.linalg.norm(found[:, None] - found[None], axis=2) + np.eye(len(found))
        assert apart.min() > 10 * TOLERANCE, "texts differ by more than rounding"
        alone = np.concatenate([await embed(http, text) for text in TEXTS])
        assert furthest(alone, found) < TOLERANCE
        usage = (await http.post(ROUTE, json={"model": BASE, "input": TEXTS})).json()["usage"]
        assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}

    asked(batcher, work)
    assert batcher.counts.prompt_tokens == 3 * tokens


def test_drift_measures_the_same_states(batcher: Batcher, family: Family) -> None:
    """`stages.backends.hidden_states`, of texts as long as it reads."""
    kept = np.stack([unit(mean) for mean in hidden_states(family.base, "float32", TEXTS[:3])])

    async def work(http: httpx.AsyncClient) -> None:
        assert furthest(await embed(http, TEXTS[:3]), kept) < TOLERANCE

    asked(batcher, work)


def test_base64_holds_the_same_numbers(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        plain = await embed(http, TEXTS[1], encoding_format="float")
        body = {"model": BASE, "input": TEXTS[1], "encoding_format": "base64", "user": "somebody"}
        packed = (await http.post(ROUTE, json=body)).json()["data"][0]["embedding"]
        assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), plain[0])
        assert np.array_equal(await embed(http, TEXTS[1], dimensions=plain.shape[1]), plain)

    asked(batcher, work)


def test_all_get_the_bases_states_while_adapters_answer(batcher: Batcher, family: Family) -> None:
    first, second, _ = family.canaries
    load(batcher, first)
    load(batcher, second)
    vectors, _ = expected(family, TEXTS)

    async def work(http: httpx.AsyncClient) -> None:
        before = await say(http, BASE)

        async def answers() -> None:
            for canary in (first, second, first):
                assert await say(http, name_of(canary)) == canary.answer
            assert await say(http, BASE) == before

        async def states(model: str) -> None:
            for _ in range(3):
                assert furthest(await embed(http, TEXTS, model=model), vectors) < TOLERANCE

        asking = [states(name_of(first)), states(BASE), states(name_of(second))]
        await asyncio.gather(answers(), *asking, answers())

    asked(batcher, work)
    assert batcher.counts.failed == 0


def test_what_is_not_done_is_refused_by_name(batcher: Batcher) -> None:
    long = WORD * 40
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"model": "gpt-4"}, 404, "model_not_found", "'gpt-4' is not served here"),
        ({"model": ""}, 400, "invalid_value", "model: expected the name"),
        ({"input": None}, 400, "invalid_value", "input: expected a text that is not empty"),
        ({"input": ""}, 400, "invalid_value", "input: expected a text that is not empty"),
        ({"input": []}, 400, "invalid_value", "input: expected a text, or a list of 1 to 2048 texts"),
        ({"input": ["a"] * 2049}, 400, "invalid_value", "a list of 1 to 2048 texts"),
        ({"input": ["a", ""]}, 400, "invalid_value", "input[1]: expected a text that is not empty"),
        ({"input": [1, 2]}, 400, "unsupported_value", "not token ids"),
        ({"input": [[1, 2]]}, 400, "unsupported_value", "not token ids"),
        ({"input": ["a", long]}, 400, "context_length_exceeded", "input[1]: this model's maximum context"),
        ({"input": "a" * 100_000}, 400, "context_length_exceeded", "input[0]: this model's maximum context"),
        ({"dimensions": 128}, 400, "unsupported_value", "this model's embeddings have 256 numbers"),
        ({"encoding_format": "int8"}, 400, "invalid_value", "encoding_format: expected float or base64"),
        ({"truncate_prompt_tokens": 9}, 400, "unsupported_parameter", "is not accepted here"),
    ]

    async def work(http: httpx.AsyncClient) -> None:
        for more, status, code, said in cases:
            answer = await http.post(ROUTE, json={"model": BASE, "input": "Hi"} | more)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (status, code), (more, error)
            assert said in error["message"]
            assert error["param"] == next(iter(more))
        assert (await http.get(ROUTE)).status_code == 405
        assert "query string" in (await http.post(f"{ROUTE}?a=1", json={})).text
        assert await embed(http, "Hi") is not None

    asked(batcher, work)
    assert batcher.queued() == {BASE: (0, 0)}


def test_texts_end_with_their_client(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(embed(http, [WORD * 20] * 40))
        async with asyncio.timeout(seconds(10)):
            while not batcher.queued()[BASE][1]:
                await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await say(http, BASE)
        assert batcher.queued() == {BASE: (0, 0)}

    asked(batcher, work)
    assert batcher.counts.cancelled == 1


def test_texts_have_places_of_their_own(batcher: Batcher) -> None:
    batcher._limit = 1
    heard: list[Any] = []
    tokens = batcher.model.tokenize(WORD * 20, add_special=True)

    async def work(http: httpx.AsyncClient) -> None:
        alone = await say(http, BASE)
        first, second = many = [texts_of(BASE, [tokens] * 500, heard.append) for _ in range(2)]
        batcher.submit(first)
        batcher.submit(second)
        async with asyncio.timeout(seconds(10)):
            while batcher.queued() != {BASE: (1, 1)}:
                await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"1 answers are waiting, 1 more are asked for, .* room for 1"):
            batcher.submit(texts_of(BASE, [tokens], heard.append))
        refused = await http.post(ROUTE, json={"model": BASE, "input": "Hi"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert await asyncio.gather(*(say(http, BASE) for _ in range(4))) == [alone] * 4
        async with asyncio.timeout(seconds(10)):
            while min(len(texts.means) for texts in many) < 3:
                await asyncio.sleep(0)
        assert abs(len(first.means) - len(second.means)) <= 1, "in turns"
        assert sum(batcher.queued()[BASE]) == 2
        for texts in many:
            batcher.cancel(texts)

    asked(batcher, work)
    assert heard in ([], [Failed("cancelled")]), "one may wait, of which nobody is told"
    assert batcher.counts.rejected == 2


def test_answers_have_their_turn_between_two_texts(model: LlamaModel, family: Family) -> None:
    """Where there is one sequence; an adapter is loaded into it too."""
    batcher = Batcher(model, BASE, parallel=1, queue=8, adapters=1)
    (first, *_), heard = family.canaries, list[Any]()
    tokens = batcher.model.tokenize(WORD * 20, add_special=True)
    texts = texts_of(BASE, [tokens] * 500, heard.append)

    async def work(http: httpx.AsyncClient) -> None:
        batcher.submit(texts)
        load(batcher, first)
        for _ in range(3):
            assert await say(http, name_of(first)) == first.answer
        assert 3 <= len(texts.means) < 500, "both went on"

    try:
        asked(batcher, work)
        assert heard == []
        assert batcher.counts.answers == 4, "the texts count once"
        assert batcher.counts.prompt_tokens > 3 * len(tokens)
    finally:
        batcher.stop()


def _reading(length: int, read: int, sequence: int) -> Texts:
    texts = texts_of(BASE, [tuple(range(length))], lambda _: None)
    texts.read, texts.sequence = read, sequence
    return texts


def test_each_text_has_an_equal_share_of_a_step() -> None:
    short, long = _reading(10, 0, 2), _reading(500, 64, 0)
    entries, places = next_states([short, long])
    assert [entry[2] for entry in entries] == [0] * 32 + [2] * 10, "in the order of their sequences"
    assert [entry[:2] for entry in entries[:2]] == [(64, 64), (65, 65)]
    assert all(entry[3] for entry in entries)
    assert places == [(long, slice(0, 32)), (short, slice(32, 42))]
    assert (short.whole, long.whole, long.read) == (True, False, 96)
    long.read = 64
    entries, _ = next_states([long], beside_answers=True)
    assert len(entries) == BESIDE_ANSWERS, "so that answers have their next turn soon"
    crowd = [_reading(10, number % 3, number) for number in range(100)]
    entries, places = next_states(crowd)
    assert len(entries) == len(places) == STATES_TOKENS
    assert sum(texts.read == 1 for texts, _ in places) == 34, "those of which the least has been read"


def test_a_mean_is_taken_over_all_steps() -> None:
    texts = texts_of(BASE, [(1, 2, 3), (4,)], lambda _: None)
    texts.add(np.array([[1, 10], [2, 20]], dtype=np.float32))
    texts.add(np.array([[6, 60]], dtype=np.float32))
    assert texts.next_text()
    assert (texts.prompt, texts.tokens, texts.read) == ((4,), [4], 0)
    texts.add(np.array([[7, 8]], dtype=np.float32))
    assert not texts.next_text()
    assert [mean.tolist() for mean in texts.means] == [[3, 30], [7, 8]]
    for broken in (np.zeros(3, np.float32), np.array([1, np.nan], np.float32)):
        with pytest.raises(ApiError, match=r"no direction"):
            unit(broken)
