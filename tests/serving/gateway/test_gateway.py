"""The gateway as its clients and its operator see it: a real process, real engines, the official client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from flows import cli
from flows.canaries.judge import Judge
from flows.canaries.start import start
from flows.gates.policy import GatePolicy
from flows.ui.screens.engine_numbers import traffic
from registry.tenancy.outcomes import Outcome
from tests.seconds import seconds
from tests.serving.engine.both_engines import require_models
from tests.serving.gateway.live_gateway import ANSWER, CHECKOUT, LLAMA, SLOWEST, Gateway, running, until
from tests.serving.populated_registry import kept_registry

SECRET = "xylophone-7781"
"""A word in a prompt, which no log may hold."""


@pytest.fixture(scope="module")
def gateway(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    populated = kept_registry(pytestconfig.rootpath, folder / "home", 3)
    engines = [LLAMA | {"adapters": 2}]
    with running(populated, folder, engines, shadows=8, bounds={"n": 4}) as found:
        yield found


def test_each_tenant_gets_the_answer_of_its_own_adapter(gateway: Gateway) -> None:
    for number, adapter in enumerate(gateway.populated.adapters):
        name = f"own-{number}"
        key = gateway.tenant(name, adapter.gguf)
        assert gateway.ask(name, SECRET) == (adapter.answer, adapter.gguf)
        client = gateway.client(key)
        assert [model.id for model in client.models.list()] == [f"team/{name}"]
        said = client.completions.with_raw_response.create(
            model=f"team/{name}", prompt="Once", max_tokens=2, temperature=0
        )
        assert said.headers["x-tuneline-artifact"] == adapter.gguf
        assert said.parse().usage.completion_tokens <= 2


def test_a_model_by_its_name_as_the_engines_answer(gateway: Gateway) -> None:
    async def work() -> None:
        key = gateway.tenant("by-name", gateway.populated.adapters[0].gguf)
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key=key, max_retries=0) as client:
            await require_models(client, {"team/by-name"}, "team/own-0")

    asyncio.run(work())


@pytest.mark.parametrize("usage", [True, False])
def test_streams(gateway: Gateway, usage: bool) -> None:
    adapter = gateway.populated.adapters[0]
    name = f"streams-{usage}".lower()
    options = {"stream_options": {"include_usage": True}} if usage else {}
    client = gateway.client(gateway.tenant(name, adapter.gguf))
    raw = client.chat.completions.with_raw_response.create(
        model=f"team/{name}", messages=[{"role": "user", "content": "Hi"}], stream=True,
        **ANSWER, **options,
    )  # fmt: skip
    assert raw.headers["x-tuneline-artifact"] == adapter.gguf
    assert re.fullmatch("[0-9a-f]{32}", raw.headers["x-request-id"])
    chunks = list(raw.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == adapter.answer
    counted = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(counted) == usage
    if usage:
        assert counted[0].completion_tokens == 3
        assert not chunks[-1].choices
    assert gateway.settled(name) > 3, "the gateway counts, whether the client asked for it or not"


def test_nothing_else_is_reachable(gateway: Gateway) -> None:
    key = gateway.tenant("curious", gateway.populated.adapters[0].gguf)
    root = gateway.url.removesuffix("/v1")
    routes = [
        "/invocations", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/tokenize", "/detokenize",
        "/metrics", "/health", "/healthz", "/readyz", "/ping", "/version", "/docs", "/openapi.json",
        "/adapters", "/v1/responses/resp_1", "/v1/embeddings/", "/v1/models/", "/v1/chat/completions/",
        "/", "/v1", "//v1/models",
    ]  # fmt: skip
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=SLOWEST) as http:
        for route in routes:
            for method in ("GET", "POST"):
                answer = http.request(method, root + route, json={} if method == "POST" else None)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), route
        assert http.get(f"{root}/v1/chat/completions").status_code == 405
        assert http.post(f"{root}/v1/models").status_code == 405


def refusal(gateway: Gateway, key: str, model: str) -> tuple[int, str]:
    """Status and reason of a refused question."""
    body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], **ANSWER}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answer = httpx.post(f"{gateway.url}/chat/completions", json=body, headers=headers, timeout=SLOWEST)
    said = answer.json()
    assert "choices" not in said, f"an answer instead of a refusal: {said}"
    assert said["error"]["message"]
    return answer.status_code, said["error"]["code"]


def test_refusals_have_a_reason_and_never_an_answer(gateway: Gateway) -> None:
    populated = gateway.populated
    key = gateway.tenant("strict", populated.adapters[0].gguf)
    assert refusal(gateway, "", "team/strict") == (401, "missing_api_key")
    assert refusal(gateway, "tl-000000000000-nonsense", "team/strict") == (401, "invalid_api_key")
    gateway.tenant("neighbour", populated.adapters[1].gguf)
    assert refusal(gateway, key, "team/neighbour") == (404, "model_not_found")
    assert refusal(gateway, key, populated.gguf) == (404, "model_not_found")
    empty = gateway.tenant("empty", None)
    assert refusal(gateway, empty, "team/empty") == (404, "model_not_found")
    for name, artifact in (
        ("stranger", populated.stranger),
        ("peft", populated.adapters[0].peft),
        ("merged", populated.adapters[0].merged),
    ):
        unfit = gateway.tenant(f"unfit-{name}", artifact)
        assert refusal(gateway, unfit, f"team/unfit-{name}") == (409, "incompatible_artifact"), name
    gateway.registry.tenants.revoke("strict", "tests")
    until(lambda: gateway.get("/models", key).status_code == 401, "the key is revoked", seconds(2))
    assert refusal(gateway, key, "team/strict") == (401, "invalid_api_key")


def test_a_rotated_key_works_until_its_overlap_is_over(gateway: Gateway) -> None:
    old = gateway.tenant("rotating", gateway.populated.adapters[0].gguf)
    _, new = gateway.registry.tenants.rotate("rotating", "tests", timedelta(seconds=3))
    until(lambda: gateway.get("/models", new).status_code == 200, "the new key works", seconds(2))
    assert gateway.get("/models", old).status_code == 200
    until(lambda: gateway.get("/models", old).status_code == 403, "the old key has ended", seconds(4))
    assert gateway.get("/models", new).status_code == 200
    another = gateway.tenant("newcomer", None)  # the gateway reads the registry anew
    assert gateway.get("/models", another).status_code == 200
    assert gateway.get("/models", old).json()["error"]["code"] == "expired_api_key"


def test_moves_and_rollbacks_reach_the_gateway(gateway: Gateway) -> None:
    first, second, _ = gateway.populated.adapters
    gateway.tenant("mover", first.gguf)
    gateway.move("team/mover", second.gguf)
    assert until(lambda: gateway.ask("mover") == (second.answer, second.gguf), "the move") < 2
    gateway.registry.channels.rollback("team/mover", "tests", "tests")
    assert until(lambda: gateway.ask("mover") == (first.answer, first.gguf), "the rollback") < 10


def test_a_canary_answers_its_share_and_each_conversation_stays_where_it_is(gateway: Gateway) -> None:
    live, candidate, _ = gateway.populated.adapters
    gateway.tenant("canary", live.gguf)
    gateway.registry.rollouts.start("team/canary", candidate.gguf, 50, 0, "tests", "to see")
    until(lambda: gateway.ask("canary", user="probe-7")[1] or True, "an answer")

    def receipts(which: range) -> list[str]:
        found = []
        for number in which:
            text, receipt = gateway.ask("canary", extra_headers={"x-conversation-id": f"talk-{number}"})
            assert text == {live.gguf: live.answer, candidate.gguf: candidate.answer}[receipt]
            found.append(receipt)
        return found

    until(lambda: candidate.gguf in receipts(range(24)), "the rollout reaches the gateway", seconds(10))
    found = receipts(range(24))
    assert receipts(range(24)) == found, "each conversation has the same artifact again"
    assert 4 <= found.count(candidate.gguf) <= 20
    until(lambda: sum(row.checked for row in gateway.registry.outcomes.read("team/canary")) >= 24, "counts")
    looked_at = [row for row in gateway.registry.outcomes.read("team/canary") if row.checked]
    assert {row.arm for row in looked_at} == {"live", "canary"}
    assert all(row.not_json == row.checked for row in looked_at), "these answers are words"
    gateway.registry.rollouts.start("team/canary", candidate.gguf, 100, 0, "tests", "all")
    until(lambda: set(receipts(range(5))) == {candidate.gguf}, "all of it", seconds(10))
    gateway.registry.rollouts.stop("team/canary", "tests", "enough")
    until(lambda: set(receipts(range(5))) == {live.gguf}, "none of it", seconds(10))


def test_a_judged_canary_is_promoted_or_stopped_and_the_gateway_follows_within_seconds(
    gateway: Gateway,
) -> None:
    live, worse, good = gateway.populated.adapters
    registry, channel = gateway.registry, "team/judged"
    gateway.tenant("judged", live.gguf)
    claim = {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1}
    policy = GatePolicy.model_validate({"tasks": [claim], "canary": {"errors": 0.5, "percent": 50}})
    document = policy.model_dump(mode="json")
    registry.channels.set_policy(channel, document, "tests", "a trial")

    def receipts(which: range) -> set[str]:
        ids = [{"x-conversation-id": f"talk-{number}"} for number in which]
        return {gateway.ask("judged", extra_headers=header)[1] for header in ids}

    judge = Judge(registry)
    for candidate in (worse.gguf, good.gguf):
        gate = registry.gates.record(candidate, live.gguf, document, "pass", {"rules": []})
        now = registry.channels.get(channel)
        assert now is not None
        assert start(registry, now, candidate, policy, gate)[0] == "started"
        until(lambda of=candidate: of in receipts(range(12)), "the canary answers", seconds(10))
        if candidate == worse.gguf:  # as another gateway over the same registry counts it
            counted = {"channel": channel, "generation": 1, "minute": datetime.now(UTC)}
            rows = 4 * [(live.gguf, "live", 100, 1), (candidate, "canary", 20, 10)]
            registry.outcomes.add(
                [
                    Outcome(artifact_id=artifact, arm=arm, requests=requests, failed=failed, **counted)
                    for artifact, arm, requests, failed in rows
                ]
            )
        talk, limit = 100, time.monotonic() + seconds(120)  # the second's answers count from a minute on
        while not (judged := judge.round(channel)):
            receipts(range(talk, talk + 12))
            talk += 12
            assert time.monotonic() < limit
        (decided,) = judged
        assert decided.ending == ("harm" if candidate == worse.gguf else "safe")
        expected = live.gguf if candidate == worse.gguf else candidate
        until(lambda of=expected: receipts(range(24)) == {of}, "the gateway follows", 10)
    assert [event.action for event in registry.rollouts.history(channel)] == ["start", "stop", "start"]
    last = registry.channels.history(channel)[-1]
    assert (last.artifact_id, last.decision_id) == (good.gguf, decided.decision)


def test_a_candidate_that_fits_no_engine_leaves_it_to_the_live_one(gateway: Gateway) -> None:
    live = gateway.populated.adapters[0]
    gateway.tenant("careful", live.gguf, tokens_per_day=10_000)
    gateway.registry.rollouts.start("team/careful", gateway.populated.stranger, 100, 0, "tests", "a mistake")

    def logged() -> bool:
        assert gateway.ask("careful") == (live.answer, live.gguf)
        return "of team/careful cannot be served" in gateway.log.read_text()

    until(logged, "the gateway says what is wrong")


def run_cli(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_shadow_is_compared_and_never_answers_and_its_outcomes_reach_the_gate(
    gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(gateway.populated.home))
    live, candidate, _ = gateway.populated.adapters
    gateway.tenant("shade", live.gguf)
    gateway.registry.rollouts.start("team/shade", candidate.gguf, 0, 100, "tests", "to compare")

    def compared() -> bool:
        assert gateway.ask("shade") == (live.answer, live.gguf)
        found = {one.arm: one for one in gateway.registry.outcomes.summary("team/shade")}
        return "shadow" in found and found["shadow"].compared >= 2

    until(compared, "shadows in the registry")
    shadow = next(one for one in gateway.registry.outcomes.summary("team/shade") if one.arm == "shadow")
    assert (shadow.artifact_id, shadow.agreed, shadow.failed) == (candidate.gguf, 0, 0)
    code, said = run_cli(
        capsys, "channels", "outcomes", "team/shade", "--latency", str(tmp_path / "l.json"),
        "--artifact", candidate.gguf,
    )  # fmt: skip
    assert code == 0
    assert {one["arm"] for one in said["outcomes"]} == {"live", "shadow"}
    task = {"task": "t", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"tasks": [task], "max_latency_ms": 60_000}))
    code, said = run_cli(
        capsys, "gate", str(tmp_path / "policy.yaml"), "--candidate", candidate.gguf,
        "--channel", "team/shade", "--latency", str(tmp_path / "l.json"),
    )  # fmt: skip
    assert code == 3, "for want of evaluations"
    latency = next(rule for rule in said["rules"] if rule["rule"] == "latency")
    assert (latency["verdict"], latency["n"] >= 2, latency["effect"] > 0) == ("insufficient", True, True)


def test_a_pinned_tenants_adapter_stays(gateway: Gateway) -> None:
    first, second, third = gateway.populated.adapters
    gateway.tenant("pinned", first.gguf, pinned=True)
    gateway.tenant("come", second.gguf)
    gateway.tenant("go", third.gguf)
    gateway.ask("pinned")
    for _ in range(2):
        gateway.ask("come")
        gateway.ask("go")
    loads = gateway.number("tuneline_engine_adapter_events_total", event="loads")
    assert gateway.ask("pinned") == (first.answer, first.gguf)
    assert gateway.number("tuneline_engine_adapter_events_total", event="loads") == loads
    gateway.registry.tenants.change("pinned", "tests", pinned=False)


def exhaust(client: openai.OpenAI, body: dict[str, Any]) -> None:
    """Ask until it is refused."""
    for _ in range(100):
        client.chat.completions.create(**body)


def test_several_answers_are_paid_together(gateway: Gateway) -> None:
    key = gateway.tenant("several", gateway.populated.adapters[0].gguf, tokens_per_day=120)
    client = gateway.client(key).chat.completions
    body: dict[str, Any] = {"model": "team/several", "messages": [{"role": "user", "content": "Hi"}]}
    said = client.create(**body, n=3, max_tokens=2, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    for choice in said.choices:
        assert choice.logprobs is not None
        assert 1 <= len(choice.logprobs.content or ()) <= 2
    assert said.usage is not None
    assert gateway.settled("several") == said.usage.total_tokens
    client.create(**body, max_tokens=20)
    with pytest.raises(openai.RateLimitError) as refused:
        client.create(**body, n=4, max_tokens=20)
    assert refused.value.code == "insufficient_quota"
    with pytest.raises(openai.BadRequestError, match=r"n: expected a whole number from 1 to 4"):
        client.create(**body, n=5)


def test_a_budget_is_settled_with_what_the_engine_counted(gateway: Gateway) -> None:
    client = gateway.client(gateway.tenant("thrifty", gateway.populated.adapters[0].gguf, tokens_per_day=300))
    body: dict[str, Any] = {
        "model": "team/thrifty",
        "messages": [{"role": "user", "content": "Hi"}],
        **ANSWER,
    }
    said = client.chat.completions.create(**body)
    assert said.usage is not None
    assert gateway.settled("thrifty") == said.usage.total_tokens
    stream = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    total = said.usage.total_tokens + stream[-1].usage.total_tokens
    until(lambda: gateway.spent("thrifty") == (total, 0), "the stream is settled")
    with pytest.raises(openai.RateLimitError) as refused:
        exhaust(client, body)
    assert refused.value.code == "insufficient_quota"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 86400
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**body | {"max_tokens": 200})
    until(lambda: gateway.spent("thrifty")[1] == 0, "nothing stays reserved")
    assert gateway.spent("thrifty")[0] <= 300


def test_a_client_that_vanishes_in_a_stream_pays_for_what_was_made(gateway: Gateway) -> None:
    client = gateway.client(gateway.tenant("gone", gateway.populated.gguf, tokens_per_day=5000))
    stream = client.chat.completions.create(
        model="team/gone", messages=[{"role": "user", "content": "Go on"}], max_tokens=200, temperature=0,
        stream=True,
    )  # fmt: skip
    pieces = [next(stream) for _ in range(5)]
    stream.close()
    texts = [c for c in pieces if c.choices and c.choices[0].delta.content]
    used = gateway.settled("gone")
    assert len(texts) < used < 256, "less than all that was reserved"
    until(lambda: gateway.number("tuneline_engine_requests") == 0, "the engine stops")


def test_more_requests_at_once_than_a_small_budget_allows(gateway: Gateway) -> None:
    key = gateway.tenant("crowd", gateway.populated.adapters[0].gguf, tokens_per_day=150)
    body = {"model": "team/crowd", "messages": [{"role": "user", "content": "Hi"}], **ANSWER}
    with (
        httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=SLOWEST) as http,
        ThreadPoolExecutor(30) as pool,
    ):
        asked = [pool.submit(http.post, f"{gateway.url}/chat/completions", json=body) for _ in range(60)]
        answers = [one.result() for one in asked]
    assert {one.status_code for one in answers} == {200, 429}
    delivered = sum(one.json()["usage"]["total_tokens"] for one in answers if one.status_code == 200)
    assert gateway.settled("crowd") == delivered <= 150


def test_rate_and_concurrency_have_limits(gateway: Gateway) -> None:
    gateway.tenant("eager", gateway.populated.adapters[0].gguf, requests_per_minute=2)
    gateway.ask("eager")
    gateway.ask("eager")
    with pytest.raises(openai.RateLimitError) as refused:
        gateway.ask("eager")
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    client = gateway.client(gateway.tenant("single", gateway.populated.gguf, concurrency=1))

    def refusal() -> openai.RateLimitError | None:
        """Of a second request beside a first; None where the first was over by then."""
        with client.chat.completions.create(
            model="team/single", messages=[{"role": "user", "content": "Go on"}], max_tokens=200, stream=True
        ) as stream:
            next(stream)
            try:
                gateway.ask("single")
            except openai.RateLimitError as error:
                return error
        return None

    second = next(filter(None, (refusal() for _ in range(10))))
    assert second.code == "concurrency_limit_exceeded"
    assert second.response.headers["retry-after"]

    def free() -> bool:
        try:
            return bool(gateway.ask("single")[1])
        except openai.RateLimitError:
            return False

    until(free, "its place is free again")


def test_tuneline_chat(gateway: Gateway) -> None:
    adapter = gateway.populated.adapters[0]
    key = gateway.tenant("talk", adapter.gguf)
    command = [sys.executable, "-m", "flows.cli", "chat", "team/talk", "--url", gateway.url]
    command += ["--temperature", "0"]
    environment = os.environ | {"TUNELINE_KEY": key}
    words = {"cwd": CHECKOUT, "env": environment, "capture_output": True, "text": True, "timeout": SLOWEST}
    done = subprocess.run([*command, "--message", "Who are you?"], **words)
    assert (done.returncode, done.stdout) == (0, f"{adapter.answer}\n"), done.stderr
    done = subprocess.run([*command, "--json"], input="Who?\nWhere?\n", **words)
    turns = json.loads(done.stdout)["turns"]
    assert [turn["artifact"] for turn in turns] == [adapter.gguf] * 2


def test_operations_and_the_log(gateway: Gateway) -> None:
    ready = httpx.get(f"{gateway.operations}/readyz", timeout=SLOWEST)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert httpx.get(f"{gateway.operations}/healthz", timeout=SLOWEST).json() == {"status": "ok"}
    gateway.tenant("counted", gateway.populated.adapters[0].gguf)
    gateway.ask("counted", SECRET)
    assert gateway.number("tuneline_gateway_requests_total", tenant="counted", arm="live") == 1
    assert gateway.number("tuneline_gateway_tokens_total", tenant="counted", kind="completion") == 3
    assert gateway.number("tuneline_gateway_time_to_first_token_seconds_count", tenant="counted") == 1
    assert gateway.number("tuneline_engine_up") == 1
    (row,) = gateway.registry.endpoints.ls(running_only=True)
    counted = traffic([row])[row.id]
    assert (counted.replicas, counted.up, counted.restarts) == (1, 1, 0)
    assert counted.tokens == gateway.number("tuneline_gateway_tokens_total", kind="completion")
    assert counted.first_token is not None
    assert counted.first_token > 0
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert any(line.get("tenant") == "counted" and line["status"] == 200 for line in lines)
    text = gateway.log.read_text()
    for word in (SECRET, gateway.populated.adapters[0].answer, *gateway.keys.values()):
        assert word not in text
