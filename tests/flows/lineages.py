"""A small family of artifacts, as a run would have published it: every kind, with tiny files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from registry import Artifact, Registry
from registry.artifacts import BaseReference, Manifest, Parentage, QuantSpec, StageResult, memo_key
from registry.catalog import ResourceUse

USE = ResourceUse(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), seconds=1.5, peak_bytes=1000)
TOOLS = {"torch": "2.13.0", "peft": "0.21.2", "gptqmodel": "absent"}
MODELS = ("base", "adapter", "merged", "gguf", "gptq")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def base_reference(**changes: Any) -> BaseReference:
    known = {
        "source": "hub:acme/Tiny-1B",
        "revision": "a" * 40,
        "weights_digest": sha256("weights"),
        "tokenizer_digest": sha256("tokenizer"),
        "tokenizer_length": 100,
        "embedding_rows": 128,
        "chat_template_digest": sha256("template"),
        "architecture": "LlamaForCausalLM",
    }
    return BaseReference.model_validate({**known, **changes})


def publish(
    registry: Registry,
    kind: str,
    stage: str,
    files: Mapping[str, bytes],
    parents: tuple[tuple[str, Artifact], ...] = (),
    **facts: Any,
) -> Artifact:
    relations = tuple(Parentage(relation=relation, id=parent.id) for relation, parent in parents)  # type: ignore[arg-type]
    key = memo_key(stage, 1, {"kind": kind, **facts.get("config", {})}, {r: p.id for r, p in parents}, {})
    key = sha256(key + repr(sorted(files.items())) + repr(facts.get("metrics")))
    with registry.draft(key, stage) as draft:
        for name, content in files.items():
            path = draft.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        result = StageResult(
            kind=kind,  # type: ignore[arg-type]
            stage=stage,
            stage_version=1,
            toolchain=TOOLS,
            parents=relations,
            **facts,
        )
        return draft.commit(result, USE)


def evaluate(
    registry: Registry,
    model: Artifact,
    dataset: Artifact,
    value: float = 0.625,
    beneath: Artifact | None = None,
) -> Artifact:
    """An evaluation of `model`, measured on the base `beneath` where it is an adapter."""
    score = {"value": value, "low": value - 0.125, "high": value + 0.125, "n": 231, "interval": "wilson"}
    measured = (("evaluation_of", model), *((("evaluation_of", beneath),) if beneath else ()))
    return publish(
        registry,
        "evaluation",
        "evaluate",
        {"results.json": f"{model.id}{value}".encode(), "samples_routing.jsonl": b"{}\n"},
        (*measured, ("evaluated_on", dataset)),
        base=model.manifest.base,
        config={"tasks": [{"kind": "heldout", "name": "routing"}]},
        metrics={
            "tasks": {"routing": {"exact_match": score}},
            "measured_on": f"routing: 231 items of the test split of dataset {dataset.id[:12]}",
            "computed_with": "float16 weights, computed in float32",
        },
    )


def family(registry: Registry, weights: bytes = b"weights", **of_base: Any) -> dict[str, Artifact]:
    """Base, dataset, adapter, merged, GGUF and GPTQ, each model with one evaluation, the GGUF with a gate."""
    base, none = base_reference(**of_base), QuantSpec(method="none")
    made = {"base": publish(registry, "base", "resolve", {"config.json": b"{}", "model.safetensors": b"0"},
                            base=base, quant=none, config={"source": base.source})}  # fmt: skip
    made["dataset"] = publish(
        registry, "dataset", "prepare", {"README.md": b"# Data\n", "train.parquet": b"rows"},
        (("tokenized_for", made["base"]),),
        config={"source": "hub:acme/chats@" + "b" * 40, "system": 'Say "hi" in one word.'},
        metrics={
            "licence": "BSD License", "dropped": {"near": 1},
            "rows": {"read": 12, "accepted": 10, "rejected": 2},
            "splits": {"train": {"rows": 8, "prompts": 8, "tokens": 99, "trainable": 33}},
        },
    )  # fmt: skip
    nf4 = {"quant_type": "nf4", "double_quant": True, "compute_dtype": "bfloat16"}
    made["adapter"] = publish(
        registry, "adapter", "train",
        {"adapter_config.json": b"{}", "adapter_model.safetensors": weights,
         "README.md": b"PEFT's own card\n"},
        (("adapter", made["base"]), ("trained_on", made["dataset"])),
        base=base, config={"lora": {"rank": 12}, "epochs": 2.0},
        quant=QuantSpec(method="bnb", requested=nf4, effective={"bits_per_weight": 4.127}),
    )  # fmt: skip
    made["merged"] = publish(
        registry, "merged", "merge", {"config.json": b"{}", "model.safetensors": b"merged " + weights},
        (("merge", made["base"]), ("merge", made["adapter"])),
        base=base, config={"dtype": "float16"},
        quant=QuantSpec(method="none", requested={"dtype": "float16"}, merge_base="16bit"),
    )  # fmt: skip
    made["gguf"] = publish(
        registry, "quantized", "quantize", {"model.gguf": b"GGUF " + weights},
        (("quantized", made["merged"]),), base=base, config={"method": "gguf", "type": "Q8_0"},
        quant=QuantSpec(method="gguf", requested={"method": "gguf", "type": "Q8_0"},
                        effective={"bits_per_weight": 8.5}, merge_base="16bit"),
    )  # fmt: skip
    made["gptq"] = publish(
        registry, "quantized", "quantize", {"config.json": b"{}", "model.safetensors": b"4 bit " + weights},
        (("quantized", made["merged"]), ("calibrated_on", made["dataset"])),
        base=base, config={"method": "gptq", "bits": 4},
        quant=QuantSpec(method="gptq", requested={"method": "gptq", "bits": 4}, effective={"bits": 4},
                        calibration_dataset=made["dataset"].id, merge_base="16bit"),
    )  # fmt: skip
    for name in MODELS:
        beneath = made["base"] if name == "adapter" else None
        made[f"{name} evaluation"] = evaluate(registry, made[name], made["dataset"], beneath=beneath)
    rule = {"sentence": "routing/exact_match: +6.2 points on 231 paired items: shown to be better."}
    registry.gates.record(made["gguf"].id, made["base"].id, {"tasks": []}, "pass", {"rules": [rule]})
    return made


def rewritten(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with other content, and so another id."""
    return Manifest.model_validate({**manifest.model_dump(), **changes})
