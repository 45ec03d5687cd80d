"""Embeddings and responses of the gateway, by the official client: keys, budgets, bounds, logs."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pydantic
import pytest

from serving.llama_cpp.model import LlamaModel
from tests.serving.canaries import RANK, kept_family
from tests.serving.engine.both_engines import require_vllm
from tests.serving.gateway.live_gateway import LLAMA, Gateway, running, until
from tests.serving.populated_registry import kept_registry

SECRET = "xylophone-7781"
"""A word in a text, which no log may hold."""
TEXTS = [SECRET, "Who are you?"]
PLACES = 8


@pytest.fixture(scope="module")
def gateway(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    populated = kept_registry(pytestconfig.rootpath, folder / "home", 3)
    engines = [LLAMA | {"adapters": 2, "parallel": 2, "queue": PLACES - 2}]
    with running(populated, folder, engines, bounds={"n": 16, "inputs": 4}) as found:
        yield found


@pytest.fixture(scope="module")
def tokens(pytestconfig: pytest.Config) -> int:
    """Of `TEXTS`."""
    model = LlamaModel(kept_family(pytestconfig.rootpath, 3).gguf, 256, 1, 1)
    found = sum(len(model.tokenize(text, add_special=True)) for text in TEXTS)
    model.close()
    return found


def test_every_tenant_gets_the_bases_states(gateway: Gateway, tokens: int) -> None:
    found = []
    loads = gateway.number("tuneline_engine_adapter_events_total", event="loads")
    for number, adapter in enumerate(gateway.populated.adapters[:2]):
        name = f"states-{number}"
        client = gateway.client(gateway.tenant(name, adapter.gguf, tokens_per_day=1000))
        raw = client.embeddings.with_raw_response.create(model=f"team/{name}", input=TEXTS)
        assert raw.headers["x-tuneline-artifact"] == gateway.populated.gguf, "the base's, and it says so"
        assert len(raw.headers["x-request-id"]) == 32
        said = raw.parse()
        assert (said.object, [one.index for one in said.data]) == ("list", [0, 1])
        assert (said.usage.prompt_tokens, said.usage.total_tokens) == (tokens, tokens)
        assert gateway.settled(name) == tokens
        assert gateway.number("tuneline_gateway_tokens_total", tenant=name, kind="prompt") == tokens
        plain = client.embeddings.create(model=f"team/{name}", input=TEXTS, encoding_format="float")
        for one, other in zip(plain.data, said.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
        found.append(np.array([one.embedding for one in said.data]))
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert np.linalg.norm(found[0], axis=1) == pytest.approx(1, abs=1e-5)
    assert gateway.number("tuneline_engine_adapter_events_total", event="loads") == loads, "none was needed"
    gateway.ask("states-0")
    until(lambda: gateway.registry.outcomes.read("team/states-0"), "the chat is an outcome")
    assert sum(row.requests for row in gateway.registry.outcomes.read("team/states-0")) == 1


def test_embeddings_are_refused_and_paid_for_as_chats_are(gateway: Gateway) -> None:
    adapter = gateway.populated.adapters[0]
    client = gateway.client(gateway.tenant("paying", adapter.gguf, tokens_per_day=100))

    def refusal(**more: Any) -> tuple[int, str | None]:
        with pytest.raises(openai.APIStatusError) as refused:
            client.embeddings.create(**{"model": "team/paying", "input": "Hi"} | more)
        assert refused.value.code is not None
        return refused.value.status_code, refused.value.code

    assert refusal(model="team/states-0") == (404, "model_not_found")
    assert refusal(input=["a"] * 5) == (400, "invalid_value")
    assert refusal(input=[1, 2, 3]) == (400, "unsupported_value")
    assert refusal(dimensions=8) == (400, "unsupported_value")
    assert refusal(extra_body={"cache_salt": "x"}) == (400, "unsupported_parameter")
    assert refusal(input="a" * 1000) == (429, "insufficient_quota"), "it might take all of the context"
    until(lambda: gateway.spent("paying") == (0, 0), "nothing was worked on")
    client.embeddings.create(model="team/paying", input="Hi", dimensions=256)
    assert 0 < gateway.settled("paying") < 5
    rich = gateway.client(gateway.tenant("rich", adapter.gguf))
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]: this model's maximum context length"):
        rich.embeddings.create(model="team/rich", input=["a", "one two " * 200])
    until(lambda: gateway.number("tuneline_engine_requests") == 0, "all places are free")


def test_a_flood_of_embeddings_keeps_nobody_from_an_answer(gateway: Gateway) -> None:
    """Twelve clients where two answers and one request for embeddings are under way at once."""
    adapter = gateway.populated.adapters[1]
    gateway.tenant("quiet", adapter.gguf)
    client = gateway.client(gateway.tenant("flood", gateway.populated.adapters[0].gguf))
    got, enough = Counter[str](), threading.Event()

    def flood() -> None:
        while not enough.is_set():
            try:
                client.embeddings.create(model="team/flood", input=["one two " * 60] * 4)
                got["answered"] += 1
            except openai.RateLimitError as error:
                got[str(error.code)] += 1

    with ThreadPoolExecutor(12) as pool:
        flooding = [pool.submit(flood) for _ in range(12)]
        try:
            until(lambda: got["overloaded"] and got["answered"], "a full line, which moves on")
            answers = [gateway.ask("quiet")[0] for _ in range(5)]
        finally:
            enough.set()
        for one in flooding:
            one.result()
    assert answers == [adapter.answer] * 5
    until(lambda: gateway.number("tuneline_engine_requests") == 0, "all places are free")


def test_a_response_is_the_channels_answer(gateway: Gateway) -> None:
    adapter = gateway.populated.adapters[0]
    client = gateway.client(gateway.tenant("respond", adapter.gguf, tokens_per_day=2000))
    asked: dict[str, Any] = {"model": "team/respond", "input": SECRET, "max_output_tokens": 8}
    raw = client.responses.with_raw_response.create(**asked, temperature=0, store=False, metadata={"a": "b"})
    assert raw.headers["x-tuneline-artifact"] == adapter.gguf
    said = raw.parse()
    assert (said.output_text, said.status, said.model) == (adapter.answer, "completed", "team/respond")
    assert said.metadata == {"a": "b"}
    assert said.usage is not None
    assert gateway.settled("respond") == said.usage.total_tokens
    with client.responses.stream(**asked, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == adapter.answer
    assert final.usage is not None
    assert final.usage.total_tokens == said.usage.total_tokens
    until(lambda: gateway.spent("respond") == (2 * said.usage.total_tokens, 0), "both are paid for")
    assert gateway.number("tuneline_gateway_tokens_total", tenant="respond", kind="completion") == 6
    until(lambda: gateway.registry.outcomes.read("team/respond"), "outcomes")
    history: Any = [{"role": "user", "content": "Who are you?"}, *(item.to_dict() for item in said.output)]
    again = client.responses.create(**asked | {"input": [*history, {"role": "user", "content": "Who?"}]})
    assert again.usage is not None
    assert again.usage.input_tokens > said.usage.input_tokens


class Booking(pydantic.BaseModel, extra="forbid"):
    city: Literal["Oslo", "Lima"]


def test_a_response_fits_its_form(gateway: Gateway) -> None:
    client = gateway.client(gateway.tenant("formed", gateway.populated.gguf))
    asked: dict[str, Any] = {"model": "team/formed", "input": "Hi", "max_output_tokens": 80}
    parsed = client.responses.parse(**asked, text_format=Booking, temperature=1)
    assert isinstance(parsed.output_parsed, Booking)
    with client.responses.stream(**asked, text_format=Booking, temperature=1) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Booking)


def test_a_responses_refusals(gateway: Gateway) -> None:
    client = gateway.client(gateway.tenant("stateless", gateway.populated.gguf))
    asked: dict[str, Any] = {"model": "team/stateless", "input": "Hi"}
    for more, code, said in (
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", r"nothing is kept of a response"),
        ({"store": True}, "unsupported_parameter", r"responses are not kept"),
        ({"background": True}, "unsupported_parameter", r"every response is answered at once"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_value", r"tools\[0\]: expected {type: function"),
        ({"input": "one two " * 200}, "context_length_exceeded", r"maximum context length is 256 tokens"),
        ({"max_output_tokens": 2000}, "invalid_value", r"max_output_tokens: an answer may have 1024 tokens"),
    ):
        with pytest.raises(openai.BadRequestError, match=said) as refused:
            client.responses.create(**asked | more)
        assert refused.value.code == code
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError, match=r"this key has no model 'team/respond'"):
        client.responses.create(model="team/respond", input="Hi")


def test_a_client_that_leaves_a_response_pays_for_what_was_made(gateway: Gateway) -> None:
    client = gateway.client(gateway.tenant("leaving", gateway.populated.gguf, tokens_per_day=5000))
    stream = client.responses.create(
        model="team/leaving", input="Go on", max_output_tokens=200, temperature=0, stream=True
    )
    events = [next(stream) for _ in range(10)]
    stream.close()
    texts = [event for event in events if event.type == "response.output_text.delta"]
    assert len(texts) < gateway.settled("leaving") < 256, "less than all that was reserved"
    until(lambda: gateway.number("tuneline_engine_requests") == 0, "the engine stops")


def test_answers_of_one_request_take_as_many_places(gateway: Gateway) -> None:
    gateway.tenant("greedy", gateway.populated.gguf)
    with pytest.raises(openai.BadRequestError, match=r"n: this engine has room for 8 answers") as never:
        gateway.ask("greedy", n=PLACES + 1)
    assert never.value.param == "n"
    gateway.ask("greedy", n=PLACES, max_tokens=1)
    gateway.tenant("modest", gateway.populated.gguf, concurrency=2)
    with pytest.raises(openai.BadRequestError, match=r"n: 2 answers to this key may be under way at once"):
        gateway.ask("modest", n=3)
    gateway.ask("modest", n=2, max_tokens=1)
    client = gateway.client(gateway.keys["modest"])
    asked: dict[str, Any] = {"model": "team/modest", "messages": [{"role": "user", "content": "Go on"}]}

    def refused() -> openai.RateLimitError | None:
        """Two answers beside one that is under way; None where that was over by then."""
        with client.chat.completions.create(**asked, max_tokens=200, stream=True) as stream:
            next(stream)
            try:
                gateway.ask("modest", n=2, max_tokens=1)
            except openai.RateLimitError as error:
                return error
        return None

    second = next(filter(None, (refused() for _ in range(10))))
    assert second.code == "concurrency_limit_exceeded"
    until(lambda: gateway.number("tuneline_engine_requests") == 0, "all places are free again")


def test_the_log_has_both_addresses_and_no_words(gateway: Gateway) -> None:
    """After all the others."""
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    asked = [line for line in lines if line["message"] == "request"]
    embedded = [line for line in asked if line["route"] == "/v1/embeddings" and line["status"] == 200]
    assert embedded
    for line in embedded:
        assert line["artifact"] == gateway.populated.gguf
        assert (line["prompt_tokens"] > 0, line["completion_tokens"], line["arm"]) == (True, None, None)
    responded = [line for line in asked if line["route"] == "/v1/responses" and line["status"] == 200]
    assert {line["arm"] for line in responded} == {"live"}
    assert any(line["completion_tokens"] == 3 for line in responded)
    text = gateway.log.read_text()
    for word in (SECRET, gateway.populated.adapters[0].answer, *gateway.keys.values()):
        assert word not in text


@pytest.mark.vllm
def test_vllm_gives_responses_and_no_embeddings(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    require_vllm()
    populated = kept_registry(pytestconfig.rootpath, tmp_path / "home", 3)
    engine = {"engine": "vllm", "dtype": "float32", "max_rank": RANK, "model": populated.base, "adapters": 2}
    with running(populated, tmp_path, [LLAMA | engine]) as gateway:
        adapter = populated.adapters[0]
        client = gateway.client(gateway.tenant("mine", adapter.peft))
        asked: dict[str, Any] = {"model": "team/mine", "input": "Who are you?", "max_output_tokens": 8}
        said = client.responses.create(**asked, temperature=0)
        assert (said.output_text, said.status) == (adapter.answer, "completed")
        with client.responses.stream(**asked, temperature=0) as stream:
            assert stream.get_final_response().output_text == adapter.answer
        with pytest.raises(openai.BadRequestError, match=r"gives answers and no embeddings") as refused:
            client.embeddings.create(model="team/mine", input="Hi")
        assert (refused.value.code, refused.value.param) == ("unsupported_value", "model")
