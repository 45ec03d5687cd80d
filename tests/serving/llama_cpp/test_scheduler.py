"""Adapters over one base, in this process: whose answer it is, and that a wrong one would be noticed.

Each engine defect that others had is put into this engine on purpose, and the isolation check has to find it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import llama_cpp as low
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from transformers import AutoModelForCausalLM

from serving.errors import AdapterRefused, NotServable, Overloaded, UnknownModel
from serving.llama_cpp import scheduler
from serving.llama_cpp.admin_api import Control
from serving.llama_cpp.api import Requests
from serving.llama_cpp.loaded_adapters import LoadedAdapter
from serving.llama_cpp.model import LlamaModel, Sampling
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer
from stages.backends.chat import encode, load_tokenizer
from stages.backends.gguf.adapter import convert_adapter
from stages.errors import InvalidInput
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary, Family
from tests.stages.backends.merge.lora_models import save_adapter, save_llama

BASE = "tuneline-base"


@pytest.fixture
def model(family: Family) -> LlamaModel:
    return LlamaModel(family.gguf, context_length=256, sequences=3, threads=1)


@pytest.fixture
def batcher(model: LlamaModel) -> Iterator[Batcher]:
    made = Batcher(model, BASE, parallel=3, queue=64, adapters=2)
    yield made
    made.stop()


def name_of(canary: Canary) -> str:
    return f"tuneline-{canary.digest[:12]}"


def load(batcher: Batcher, canary: Canary) -> LoadedAdapter:
    return batcher.load(name_of(canary), canary.digest, canary.path / "model.gguf").result(seconds(30))


@contextlib.asynccontextmanager
async def client(batcher: Batcher, requests: Requests | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport((requests or Requests(batcher)).app())
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=seconds(60)) as made:
        yield made


async def say(
    http: httpx.AsyncClient, model: str, question: str = QUESTIONS[0], tokens: int = 8, **more: Any
) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
    answer = await http.post("/v1/chat/completions", json={"temperature": 0, **body, **more})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def asked(
    batcher: Batcher, work: Callable[[httpx.AsyncClient], Awaitable[Any]], requests: Requests | None = None
) -> Any:
    async def run() -> Any:
        async with client(batcher, requests) as http:
            return await work(http)

    return asyncio.run(run())


def logits_in_llama_cpp(model: LlamaModel, adapter: Path | None, tokens: list[int]) -> torch.Tensor:
    handle = None if adapter is None else model.load_adapter(adapter)
    model.use(handle)
    model.forget(0)
    model.decode([(token, i, 0, True) for i, token in enumerate(tokens)])
    found = np.stack([model.logits(i) for i in range(len(tokens))])
    model.use(None)
    return torch.from_numpy(found)


def test_a_gguf_adapter_gives_the_logits_of_peft(family: Family, model: LlamaModel) -> None:
    tokenizer = load_tokenizer(family.base)
    tokens = encode(tokenizer, [{"role": "user", "content": QUESTIONS[1]}], add_generation_prompt=True)
    plain = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    with torch.no_grad():
        expected_base = plain(torch.tensor([tokens])).logits[0]
        tuned = PeftModel.from_pretrained(plain, family.canaries[0].peft)
        expected = tuned(torch.tensor([tokens])).logits[0]
    base = logits_in_llama_cpp(model, None, tokens)
    found = logits_in_llama_cpp(model, family.canaries[0].path / "model.gguf", tokens)
    model.close()
    rounding = float((base - expected_base).norm() / expected_base.norm())
    error = float((found - expected).norm() / expected.norm())
    effect = float((found - base).norm() / base.norm())
    print(f"base {rounding:.2g}, adapter {error:.2g}, effect {effect:.2g}")
    assert rounding < 2e-3, "F16 weights against float32"
    assert error < 5e-3
    assert effect > 0.5, "and the adapter says something else than the base"


def test_what_llama_cpp_would_leave_out_is_refused_by_name(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    for number, (lora, named) in enumerate(
        {
            "embed_tokens": (
                {"target_modules": ["q_proj", "embed_tokens"]},
                "embed_tokens.*embedding or the",
            ),
            "use_rslora": ({"use_rslora": True}, "sets use_rslora = True"),
            "use_dora": ({"use_dora": True}, "sets use_dora = True"),
            "lm_head": ({"modules_to_save": ["lm_head"]}, "lm_head.*embedding or the output head"),
            "norm": ({"modules_to_save": ["norm"]}, "norm.weight is not a pair of LoRA factors"),
        }.values()
    ):
        adapter = save_adapter(base, tmp_path / f"peft-{number}", **lora)  # type: ignore[arg-type]
        out = tmp_path / f"out-{number}"
        out.mkdir()
        with pytest.raises(InvalidInput, match=named):
            convert_adapter(adapter, base, "F16", "x", out)
        assert not list(out.iterdir()), "nothing is left behind"


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


def _in_the_name_of(batcher: Batcher, name: str, canary: Canary) -> None:
    batcher.load(name, name, canary.path / "model.gguf").result(seconds(30))


def test_a_name_stands_for_the_same_bytes_for_ever(batcher: Batcher, family: Family) -> None:
    """vLLM 42125 and 30931: another adapter was loaded under a name that caches knew."""
    first, second, _ = family.canaries
    _in_the_name_of(batcher, "x", first)
    batcher.unload("x").result(seconds(10))
    with pytest.raises(AdapterRefused, match="is not the file that x stood for before"):
        _in_the_name_of(batcher, "x", second)
    _in_the_name_of(batcher, "x", first)
    with pytest.raises(AdapterRefused, match="stands for one artifact only"):
        batcher.load("x", "other", second.path / "model.gguf").result(seconds(30))


def test_a_name_used_again_with_its_cache_would_be_noticed(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = family.canaries
    monkeypatch.setattr(batcher.loaded, "_require_same_bytes", lambda *_: "")
    monkeypatch.setattr(scheduler, "cache_key", lambda adapter, answer: (adapter.name, answer.salt))

    async def work(http: httpx.AsyncClient) -> list[str]:
        said = []
        for canary in (first, second):
            await asyncio.to_thread(_in_the_name_of, batcher, "x", canary)
            said += [await say(http, "x", question, cache_salt="t") for question in QUESTIONS]
            await asyncio.wrap_future(batcher.unload("x"))
        return said

    expected = [first.answer] * len(QUESTIONS) + [second.answer] * len(QUESTIONS)
    assert asked(batcher, work) != expected, "the check found nothing"


def test_an_adapter_without_effect_is_refused(
    batcher: Batcher, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM 34186: an adapter loaded, and the base answered in its name."""
    monkeypatch.setattr(batcher.model, "use", lambda adapter: None)
    with pytest.raises(AdapterRefused, match="has no effect here"):
        load(batcher, family.canaries[0])
    assert [one.name for one in batcher.loaded] == [BASE]


def test_files_that_are_no_adapter_for_this_base(batcher: Batcher, family: Family, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes((family.canaries[0].path / "model.gguf").read_bytes()[:5000])
    for file in (tmp_path / "cut.gguf", family.gguf, tmp_path / "nowhere.gguf"):
        with pytest.raises(NotServable):
            batcher.load("x", "x", file).result(seconds(30))
    load(batcher, family.canaries[0])


def test_unloading_waits_for_what_is_under_way(batcher: Batcher, family: Family) -> None:
    canary = family.canaries[0]
    load(batcher, canary)

    async def work(http: httpx.AsyncClient) -> None:
        answers = [asyncio.create_task(say(http, name_of(canary), q)) for q in QUESTIONS * 3]
        while not sum(map(sum, batcher.queued().values())):
            await asyncio.sleep(0)
        gone = asyncio.wrap_future(batcher.unload(name_of(canary)))
        refused = await http.post(
            "/v1/chat/completions",
            json={"model": name_of(canary), "messages": [{"role": "user", "content": "Hi"}]},
        )
        assert refused.status_code == 404, "never the base's answer"
        await gone
        said = await asyncio.gather(*answers, return_exceptions=True)
        late = [one for one in said if isinstance(one, AssertionError)]  # came after the unloading: 404
        assert set(map(str, said)) - set(map(str, late)) == {canary.answer}
        assert all("not served here" in str(one) for one in late)

    asked(batcher, work)
    with pytest.raises(UnknownModel):
        batcher.unload(name_of(canary))


def test_a_hosted_adapter_is_the_same_as_the_models_own(
    model: LlamaModel, family: Family, tmp_path: Path
) -> None:
    """Also one with more modules than those before it: llama.cpp ends a process whose graphs lack room."""

    def said() -> np.ndarray:
        model.forget(0)
        model.decode([(token, token, 0, token == 9) for token in range(10)])
        return model.logits(9)

    save_adapter(family.base, tmp_path / "peft")
    convert_adapter(tmp_path / "peft", family.base, "F16", "wide", tmp_path)
    for file in (family.canaries[0].path / "model.gguf", tmp_path / "model.gguf"):
        hosted = model.load_adapter(file)
        assert model._host is not None
        assert 2 * model._host.room >= len(GGUFReader(file).tensors)
        model.use(hosted)
        found = said()
        own = low.llama_adapter_lora_init(model._model, str(file).encode())
        model.use(own)
        assert np.array_equal(said(), found)
        model.use(None)
        assert not np.array_equal(said(), found)
        model.free_adapter(own)


def test_an_engine_outlives_an_adapter_without_room(
    batcher: Batcher, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nowhere:
        nowhere.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(NotServable, match="could not make room for this adapter: FileNotFoundError"):
            load(batcher, family.canaries[0])
    assert batcher.alive
    load(batcher, family.canaries[0])


def test_slots_are_bounded_and_a_load_is_done_once(batcher: Batcher, family: Family) -> None:
    first, second, third = family.canaries
    futures = [batcher.load(name_of(first), first.digest, first.path / "model.gguf") for _ in range(8)]
    assert len({future.result(seconds(30)).serial for future in futures}) == 1
    load(batcher, second)
    with pytest.raises(Overloaded, match="2 adapters are loaded"):
        load(batcher, third)


def test_a_full_queue_turns_away_and_one_line_cannot_fill_it(family: Family) -> None:
    model = LlamaModel(family.gguf, context_length=256, sequences=1, threads=1)
    batcher = Batcher(model, BASE, parallel=1, queue=4, adapters=2)
    load(batcher, family.canaries[0])

    def answer(name: str) -> tuple[Answer, list[Any]]:
        heard: list[Any] = []
        return Answer(name, (5, 6, 7), 200, Sampling(temperature=0), None, heard.append), heard

    try:
        crowd = []
        with contextlib.suppress(Overloaded):
            for _ in range(9):
                crowd.append(answer(BASE))
                batcher.submit(crowd[-1][0])
        assert 4 <= len(crowd) <= 6, "one under way, four wait, the next is turned away"
        mine, _ = answer(name_of(family.canaries[0]))
        batcher.submit(mine)
        gave_way = [heard for _, heard in crowd if heard and getattr(heard[-1], "overloaded", False)]
        assert len(gave_way) == 1, "the newest of the long line"
    finally:
        batcher.stop()


def test_temperature_zero_repeats_itself(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        said = [await say(http, BASE, tokens=24) for _ in range(3)]
        assert len(set(said)) == 1
        drawn = [await say(http, BASE, tokens=8, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        for nearly in (5e-324, 1e-45, 1e-38, 1e-20):  # a logit divided by some of these is no float any more
            assert await say(http, BASE, tokens=24, temperature=nearly) == said[0]

    asked(batcher, work)


def test_a_client_that_hangs_up_ends_its_answer(batcher: Batcher) -> None:
    """Through the ASGI protocol itself: httpx's transport in memory cannot hang up."""
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 150}

    async def hang_up(stream: bool) -> None:
        sent = [{"type": "http.request", "body": json.dumps(body | {"stream": stream}).encode()}]
        begun = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if sent:
                return sent.pop()
            if stream:
                await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            begun.set()

        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [],
            "query_string": b"", "http_version": "1.1", "scheme": "http", "server": None, "client": None,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        with contextlib.suppress(BaseException):
            await Requests(batcher).app()(scope, receive, send)  # type: ignore[arg-type]

    for stream in (False, True):
        before = batcher.counts.cancelled
        asyncio.run(hang_up(stream))
        batcher.load("x", "x", Path("/nowhere")).exception(10)  # obeyed after the cancelling
        assert batcher.counts.cancelled == before + 1
    assert batcher.counts.answer_tokens < 290, "nobody waited for the rest"


def test_how_many_tokens_a_long_prompt_has_at_least(model: LlamaModel) -> None:
    with contextlib.closing(model):
        for said in ("<|im_start|>", "a", " a", " ", "0", "é", "你", "<|im_end|>\n", "The sea is wide. "):
            text = said * (50_000 // len(said))
            assert 256 < model.least_tokens(text) <= len(model.tokenize(text, add_special=False))
            assert not model.least_tokens(said * 100), "a short one is read at once"


def test_a_prompt_that_is_far_too_long_is_refused_unread(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would need a minute for a megabyte of special tokens."""
    monkeypatch.setattr(LlamaModel, "tokenize", None)

    async def work(http: httpx.AsyncClient) -> None:
        text = "<|im_start|>" * 80_000
        for more in ({"prompt": text}, {"messages": [{"role": "user", "content": text}]}):
            route = "/v1/completions" if "prompt" in more else "/v1/chat/completions"
            refused = (await http.post(route, json={"model": BASE} | more)).json()["error"]
            assert refused["code"] == "context_length_exceeded"
            assert "has at least 8000" in refused["message"]

    asked(batcher, work)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "not valid JSON"),
        (b"[1]", 400, "expected a JSON object"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b'{"model": "a", "model": "b"}', 400, "duplicate key"),
        (b'{"temperature": NaN}', 400, "not a JSON number"),
        (b'{"model": "\\ud800"}', 400, "not valid JSON"),
        (b" " * (1 << 20) + b" ", 413, "larger than"),
        ({"model": 7}, 400, "model: expected the name"),
        ({"model": "gpt-4"}, 404, "'gpt-4' is not served"),
        ({"model": "../x"}, 404, "not served"),
        ({"n": 10**9}, 400, "n: a request gets one answer"),
        ({"max_tokens": -1}, 400, "max_tokens: expected"),
        ({"max_tokens": 10**30}, 400, "max_tokens: an answer may have 1048576 tokens at most; leave it out"),
        ({"max_tokens": 255}, 400, "at most, or leave max_tokens out"),
        ({"temperature": "hot"}, 400, "temperature: expected a number"),
        ({"stop": ["a"] * 5}, 400, "stop: expected"),
        ({"chat_template": "{{ x }}"}, 400, "'chat_template' is not accepted here: templates come"),
        ({"tools": [{"type": "function"}]}, 400, "'tools' is not accepted here: no engine"),
        ({"response_format": {"type": "json_object"}}, 400, "'response_format'"),
        ({"logprobs": 0}, 400, "'logprobs' is not supported by the engines here"),
        ({"messages": []}, 400, "messages: expected a list"),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text parts only"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, 400, "context length is 256 tokens"),
    ],
)  # fmt: skip
def test_bad_bodies(batcher: Batcher, body: Any, status: int, named: str) -> None:
    good = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    content = body if isinstance(body, bytes) else json.dumps(good | body).encode()

    async def work(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/chat/completions", content=content)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert named in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
        assert await say(http, BASE, tokens=1) is not None

    asked(batcher, work)


def test_a_message_is_what_the_template_makes_of_its_texts_and_name(batcher: Batcher) -> None:
    requests = Requests(batcher)
    seen: list[Any] = []
    rendered = requests._formatter

    def formatter(messages: Any) -> Any:
        seen.append(messages)
        return rendered(messages=messages)

    requests._formatter = formatter  # type: ignore[assignment]

    async def work(http: httpx.AsyncClient) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        for content in (parts, "a\nb"):
            message = {"role": "user", "content": content, "name": "x"}
            body = {"model": BASE, "max_tokens": 1, "messages": [message]}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
        assert seen == [[{"role": "user", "content": "a\nb", "name": "x"}]] * 2
        drawn = [await say(http, BASE, tokens=8, temperature=1.5, seed=seed) for seed in (1 << 40, 1 << 40)]
        assert drawn[0] == drawn[1], "a seed may have 64 bits"
        neutral = {"seed": -1, "n": 1, "logprobs": False, "repetition_penalty": 1.0, "top_k": -1}
        assert await say(http, BASE, tokens=4, **neutral) == await say(http, BASE, tokens=4)

    asked(batcher, work, requests)


def test_a_defect_is_logged_without_the_clients_words(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("quetzalcoatl")

    monkeypatch.setattr(Requests, "_prompt", broken)

    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": BASE, "messages": [{"role": "user", "content": "quetzalcoatl"}]}
        answer = await http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "quetzalcoatl" not in answer.text

    asked(batcher, work)
    assert "KeyError at test_scheduler.py" in caplog.text
    assert "quetzalcoatl" not in caplog.text


def test_only_the_known_routes(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for route in (
            "/v1/load_lora_adapter",
            "/adapters",
            "/invocations",
            "/tokenize",
            "/v1/chat/completions/x",
        ):
            assert (await http.post(route, json={})).status_code == 404
        assert (await http.get("/v1/chat/completions")).status_code == 405

    asked(batcher, work)


def test_the_control_door_says_why_not(batcher: Batcher, family: Family) -> None:
    canary = family.canaries[0]

    async def run() -> None:
        transport = httpx.ASGITransport(Control(batcher).app())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=seconds(60)
        ) as http:
            body = {"name": "a", "digest": canary.digest, "path": str(canary.path / "model.gguf")}
            said = (await http.post("/adapters", json=body)).json()
            assert said["name"] == "a"
            assert said["effect"] > 0.1
            assert (await http.get("/adapters")).json()["adapters"] == [said]
            other = await http.post("/adapters", json=body | {"digest": "b"})
            assert (other.status_code, other.json()["kind"]) == (409, "AdapterRefused")
            assert (await http.post("/adapters", json={"name": "a"})).status_code == 400
            assert (await http.delete("/adapters/a")).status_code == 200
            assert (await http.delete("/adapters/a")).status_code == 404
            assert (await http.get("/health")).json()["status"] == "ok"

    asyncio.run(run())
