"""The adapter as it was trained, over the 16-bit base: measured, gated and promoted as vLLM serves it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from registry import Registry
from tests.e2e.conftest import Tuneline, states
from tests.serving.engine.both_engines import require_vllm
from tests.serving.gateway.live_gateway import SLOWEST, start, stop

Pico = tuple[Tuneline, dict[str, Any]]
LABEL = "adapter on base 16bit"
TO_CHANNEL = ("--set", "promote.channel=pico/vllm")


@pytest.fixture(scope="module")
def stored(pico: Pico) -> Pico:
    """A finished run of `pico-tenant` for vLLM, in the home of the one of `pico-smoke`."""
    return pico[0], pico[0].json("run", "pico-tenant", "--set", "adapter.base=16bit", *TO_CHANNEL)


def made(run: dict[str, Any], label: str) -> str:
    return str(next(row["artifact_id"] for row in run["stages"] if row["label"] == label))


def test_the_trained_adapter_itself_is_measured_gated_and_promoted(stored: Pico) -> None:
    tuneline, run = stored
    assert run["exit_code"] == 0, run["stages"]
    assert {label for label, state in states(run).items() if state == "ran"} == {
        f"evaluate {LABEL}", "gate", "promote to pico/vllm",
    }  # fmt: skip
    adapter, base = made(run, "train adapter"), made(run, "resolve base")
    assert tuneline.json("artifacts", "show", "pico/vllm")["id"] == adapter
    assert (run["models"][-1]["label"], run["models"][-1]["artifact_id"]) == (LABEL, adapter)
    evaluation = tuneline.json("artifacts", "show", made(run, f"evaluate {LABEL}"))
    of = {parent["id"] for parent in evaluation["parents"] if parent["relation"] == "evaluation_of"}
    assert (of, evaluation["config"]["nf4"]) == ({base, adapter}, None)
    assert run["gate"]["evaluations"]["candidate"] == evaluation["id"]
    assert run["gate"]["evaluations"]["parent"] == made(run, "evaluate tuned NF4")
    assert run["resident"] == {"artifact_id": base, "engine": "vllm", "name": "pico-0-16bit@1"}
    assert tuneline.json("artifacts", "show", "pico-0-16bit@1")["id"] == base
    assert "it is called pico-0-16bit@1" in tuneline("artifacts", "gc", "--why", base).stdout


def test_the_ladder_says_how_far_it_is_from_what_was_trained(stored: Pico) -> None:
    _, run = stored
    assert run["ladder"]["breaks_at"] is None, run["ladder"]["cause"]
    rungs = {rung["label"]: rung for rung in run["ladder"]["rungs"]}
    apart, merged = rungs[LABEL], rungs["merged float16"]
    assert (apart["kind"], apart["parent"]) == ("apart", "tuned NF4 + adapter")
    near, far = apart["figures"]["kl_mean"], merged["figures"]["kl_mean"]
    assert 0 < near["low"] < far["high"], "as far as the merge is, which is the same sum"
    assert far["low"] < near["high"]
    assert apart["to_base"]["kl_mean"]["value"] > 10 * near["value"], "the tune is in it"


def test_the_gate_command_comes_to_the_same_verdict(stored: Pico) -> None:
    tuneline, run = stored
    adapter = made(run, "train adapter")
    gate = tuneline.json("gate", "pico/vllm", "--candidate", adapter, "--channel", "pico/vllm")
    assert (gate["exit_code"], gate["verdict"], gate["notes"]) == (0, "pass", [])
    assert gate["rules"] == run["gate"]["rules"]
    assert gate["evaluations"] == run["gate"]["evaluations"]


def test_the_live_adapter_is_measured_as_vllm_serves_it(stored: Pico) -> None:
    tuneline, run = stored
    merged = ("--set", "adapter=null", "--set", "promote.candidate=merged")
    other = tuneline.json("run", "pico-tenant", *merged, *TO_CHANNEL)
    assert other["exit_code"] == 0, other["stages"]
    live = tuneline.json("artifacts", "show", made(other, "evaluate live"))
    of = {parent["id"] for parent in live["parents"] if parent["relation"] == "evaluation_of"}
    assert of == {made(run, "resolve base"), made(run, "train adapter")}
    assert live["config"]["nf4"] is None
    assert tuneline("rollback", "pico/vllm", "--reason", "as it was").returncode == 0


def test_the_contract_and_the_card_know_that_it_was_measured(stored: Pico, tmp_path: Path) -> None:
    tuneline, run = stored
    adapter = made(run, "train adapter")
    said = tuneline.json("artifacts", "compat", "pico-0-16bit@1", adapter, "--engine", "vllm")
    recipe = next(check for check in said["checks"] if check["name"] == "quant recipe")
    assert (said["exit_code"], recipe["state"]) == (0, "ok")
    assert "measured on exactly these weights" in recipe["found"]
    assert tuneline("artifacts", "export", adapter, str(tmp_path / "out")).returncode == 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "vLLM (over the base as it is stored, not in NF4: evaluation " in card
    assert re.search(r"bfloat16 weights(, computed in float32)? with transformers", card)


@pytest.mark.vllm
def test_vllm_gives_the_answers_on_record(stored: Pico, tmp_path: Path) -> None:
    require_vllm()
    tuneline, run = stored
    free, config = {"port": 0}, tmp_path / "serve.yaml"
    engine = {"engine": "vllm", "model": run["resident"]["name"], "adapters": 1, "context_length": 256}
    config.write_text(yaml.safe_dump({"gateway": free, "operations": free, "engines": [engine]}))
    key = tuneline.json("tenants", "add", "acme", "pico/vllm")["key"]
    process, said = start(config, tuneline.home, tmp_path / "log", "adapter-16bit")
    try:
        recorded = list(answers(tuneline.home, made(run, f"evaluate {LABEL}")))
        served = [asked(said["url"], key, messages) for messages, _ in recorded]
    finally:
        stop(process)
    assert {artifact for _, artifact in served} == {made(run, "train adapter")}
    same = sum(text == answer for (text, _), (_, answer) in zip(served, recorded, strict=True))
    assert (len(recorded), same) == (32, 32)


def answers(home: Path, evaluation: str) -> list[tuple[list[dict[str, str]], str]]:
    """What was asked of each item, as a chat, and what was answered."""
    with Registry.open(home) as registry:
        found = registry.get(evaluation)
        data = next(p.id for p in found.manifest.parents if p.relation == "evaluated_on")
        rows = (registry.view(found.id) / "samples_routing.jsonl").read_text("utf-8").splitlines()
        table = pq.read_table(registry.view(data) / "test.parquet", columns=["messages"])
    chats = table["messages"].to_pylist()
    return [
        ([{"role": m["role"], "content": m["content"]} for m in chats[row["document"]][:-1]], row["answer"])
        for row in map(json.loads, rows)
    ]


def asked(url: str, key: str, messages: list[dict[str, str]]) -> tuple[str, str]:
    """The answer to a chat, and the artifact in its receipt."""
    body = {"model": "pico/vllm", "messages": messages, "max_tokens": 12, "temperature": 0}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=SLOWEST)
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["choices"][0]["message"]["content"]
    return said.strip(), answer.headers["x-tuneline-artifact"]
