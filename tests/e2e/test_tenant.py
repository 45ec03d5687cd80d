"""The adapter apart: from data to what an engine loads for one tenant beside the base that all share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.errors import Usage
from flows.exchange.artifact_import import adopt
from flows.run.find_or_make import as_parent
from flows.run.standalone_stage import run_plain
from registry import Artifact, Registry
from registry.artifacts import Manifest
from registry.compat.contract import examine
from registry.compat.model import Use, pair
from serving.engine.capabilities import limits
from stages.backends.evaluate.open_model import open_model
from stages.config.evaluate import EvaluateConfig
from stages.errors import InvalidInput
from tests.e2e.conftest import Tuneline, states

Pico = tuple[Tuneline, dict[str, Any]]
LABEL = "adapter on base Q8_0"


def made(run: dict[str, Any], label: str) -> str:
    return str(next(row["artifact_id"] for row in run["stages"] if row["label"] == label))


def test_the_adapter_is_made_measured_gated_and_promoted(tenant: Pico) -> None:
    tuneline, run = tenant
    assert run["exit_code"] == 0, run["stages"]
    assert {label for label, state in states(run).items() if state == "ran"} == {
        "quantize base Q8_0", "quantize adapter F16", f"evaluate {LABEL}", "gate", "promote to pico/tenant",
    }  # fmt: skip
    adapter = tuneline.json("artifacts", "show", "pico/tenant")
    assert (adapter["id"], adapter["kind"]) == (made(run, "quantize adapter F16"), "adapter")
    assert adapter["quant"]["method"] == "gguf"
    assert adapter["quant"]["effective"]["trained_on"]["quant_type"] == "nf4"
    row = run["models"][-1]
    assert (row["label"], row["artifact_id"]) == (LABEL, adapter["id"])
    assert row["scores"]["routing exact_match"]["n"] == 32


def test_the_pair_is_the_exact_sum_but_for_the_bases_rounding(tenant: Pico) -> None:
    _, run = tenant
    assert run["ladder"]["breaks_at"] is None, run["ladder"]["cause"]
    rungs = {rung["label"]: rung for rung in run["ladder"]["rungs"]}
    apart, merged = rungs[LABEL], rungs["merged float16"]
    assert (apart["kind"], apart["parent"]) == ("apart", "tuned NF4 + adapter")
    assert apart["fold"]["kl_mean"]["value"] < 0.005
    # as far from what was trained as the merge is: both sum in the base's own weights
    near, far = apart["figures"]["kl_mean"], merged["figures"]["kl_mean"]
    assert near["low"] < far["high"]
    assert far["low"] < near["high"]
    assert apart["to_base"]["kl_mean"]["value"] > 10 * apart["fold"]["kl_mean"]["value"], "the tune is in it"


def test_the_base_to_hold_is_named(tenant: Pico) -> None:
    tuneline, run = tenant
    held = run["resident"]
    base = made(run, "quantize base Q8_0")
    assert held == {"artifact_id": base, "engine": "llama.cpp", "name": "pico-0-q8_0@1"}
    shown = tuneline.json("artifacts", "show", held["name"])
    assert (shown["id"], shown["kind"]) == (held["artifact_id"], "quantized")
    kept = tuneline("artifacts", "gc", "--why", held["name"])
    assert "it is called pico-0-q8_0@1" in kept.stdout


def test_compat_says_which_engine_takes_which_pair(tenant: Pico, pico: Pico) -> None:
    tuneline, run = tenant
    base, adapter = run["resident"]["artifact_id"], "pico/tenant"

    def compat(*arguments: str) -> tuple[str, set[str]]:
        said = tuneline.json("artifacts", "compat", *arguments)
        return said["verdict"], {one["name"] for one in said["checks"] if one["state"] == "refused"}

    assert compat(base, adapter, "--engine", "llama.cpp", "--strict") == ("ok", set())
    trained, merged = made(run, "train adapter"), pico[1]["endpoint"]["artifact_id"]
    assert compat(base, trained, "--engine", "llama.cpp") == ("refused", {"adapter format"})
    assert compat(made(run, "resolve base"), adapter, "--engine", "vllm") == ("refused", {"adapter format"})
    assert compat(merged, adapter, "--engine", "llama.cpp") == ("refused", {"kinds"})


def test_another_revision_of_the_base_is_refused(tenant: Pico) -> None:
    tuneline, run = tenant
    with Registry.open(tuneline.home) as registry:
        base = registry.get(run["resident"]["artifact_id"]).manifest
        adapter = registry.get("pico/tenant").manifest
    use = Use(limits("llama.cpp"))
    assert not refused(base, adapter, use)
    assert base.base is not None
    other = base.model_copy(update={"base": base.base.model_copy(update={"weights_digest": "1" * 64})})
    assert refused(other, adapter, use) == {"weights_digest"}


def refused(base: Manifest, dependent: Manifest, use: Use) -> set[str]:
    return {one.name for one in examine(pair(base, dependent, use)) if one.state == "refused"}


def test_the_live_adapter_is_measured_on_the_base_that_it_is_served_over(tenant: Pico) -> None:
    tuneline, run = tenant
    other = tuneline.json("run", "pico-tenant", "--set", "adapter.type=Q8_0")
    assert other["exit_code"] == 0, other["stages"]
    assert {label for label, state in states(other).items() if state == "ran"} == {
        "quantize adapter Q8_0", f"evaluate {LABEL}", "evaluate live", "gate", "promote to pico/tenant",
    }  # fmt: skip
    live = tuneline.json("artifacts", "show", made(other, "evaluate live"))
    of = {parent["id"] for parent in live["parents"] if parent["relation"] == "evaluation_of"}
    assert of == {run["resident"]["artifact_id"], made(run, "quantize adapter F16")}
    assert other["resident"] == run["resident"]
    assert tuneline("rollback", "pico/tenant", "--reason", "as it was").returncode == 0


def test_the_gate_command_comes_to_the_same_verdict(tenant: Pico) -> None:
    tuneline, run = tenant
    adapter = made(run, "quantize adapter F16")
    gate = tuneline.json("gate", "pico/tenant", "--candidate", adapter, "--channel", "pico/tenant")
    assert (gate["exit_code"], gate["verdict"]) == (0, "pass"), gate
    assert gate["rules"][0] == run["gate"]["rules"][0]
    assert "what it was made from" in gate["rules"][0]["sentence"]


def test_an_export_says_how_it_was_measured_and_is_loaded(tenant: Pico, tmp_path: Path) -> None:
    tuneline, run = tenant
    adapter = made(run, "quantize adapter F16")
    assert tuneline("artifacts", "export", adapter, str(tmp_path / "out")).returncode == 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert 'Llama("base.gguf", lora_path="path/to/this/directory/model.gguf"' in card
    assert "library_name: gguf" in card
    assert f"`{made(run, f'evaluate {LABEL}')[:12]}`" in card
    key = tuneline.home / "keys" / "signing.pub.pem"
    checked = tuneline("artifacts", "verify", str(tmp_path / "out"), "--public-key", str(key))
    assert checked.returncode == 0, checked.stderr


def test_plain_directories_give_the_same_answers(tenant: Pico, tmp_path: Path) -> None:
    tuneline, run = tenant
    with Registry.open(tuneline.home) as registry:
        parts = {
            "model": registry.get(run["resident"]["artifact_id"]),
            "adapter": registry.get(made(run, "quantize adapter F16")),
            "base": registry.get(made(run, "resolve base")),
            "dataset": registry.get(made(run, "prepare data")),
        }
        evaluation = registry.view(made(run, f"evaluate {LABEL}"))
        places = {role: copied(registry, part, tmp_path / role) for role, part in parts.items()}
    given = {**places, "model": places["model"] / "model.gguf"}
    options = [word for role, place in given.items() for word in (f"--{role}", str(place))]
    task = "tasks=[{kind: heldout, name: routing, max_items: 32, max_new_tokens: 12}]"
    out = tmp_path / "scores"
    found = tuneline.json("evaluate", *options, "--out", str(out), "--set", task)
    assert found["exit_code"] == 0, found
    assert "with a LoRA adapter on llama.cpp" in found["facts"]["metrics"]["computed_with"]
    assert answers(out) == answers(evaluation)


def test_a_gguf_adapter_where_none_belongs_is_refused(tenant: Pico, tmp_path: Path) -> None:
    tuneline, run = tenant
    with Registry.open(tuneline.home) as registry:
        adapter = registry.get(made(run, "quantize adapter F16"))
        place = copied(registry, adapter, tmp_path / "adapter")
        with pytest.raises(Usage, match=r"is a GGUF adapter.*import the PEFT adapter"):
            adopt(registry, place, None, made(run, "resolve base"))
        on_16_bits = {role: as_parent(registry, registry.get(made(run, step))) for role, step in (
            ("model", "resolve base"), ("adapter", "quantize adapter F16"),
        )}  # fmt: skip
        on_gguf = {
            "model": as_parent(registry, registry.get(run["resident"]["artifact_id"])),
            "adapter": as_parent(registry, registry.get(made(run, "train adapter"))),
        }
    with pytest.raises(InvalidInput, match=r"which llama\.cpp puts on a GGUF of its base"):
        open_model(on_16_bits, EvaluateConfig())
    with pytest.raises(InvalidInput, match=r"already quantized \(GGUF\), but a PEFT adapter was given"):
        open_model(on_gguf, EvaluateConfig())
    with pytest.raises(Usage, match="give it with --adapter"):
        run_plain("quantize", {"model": place}, ["method=gguf"], tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"]


def copied(registry: Registry, artifact: Artifact, place: Path) -> Path:
    return Path(shutil.copytree(registry.view(artifact.id), place))


def answers(evaluation: Path) -> dict[str, str]:
    lines = (evaluation / "samples_routing.jsonl").read_text("utf-8").splitlines()
    return {row["asked"]: row["answer"] for row in map(json.loads, lines)}
