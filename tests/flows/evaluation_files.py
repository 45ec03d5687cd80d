"""Evaluations as the evaluate stage logs them, plain or in a registry with their lineage."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from tests.flows.lineages import base_reference, publish

Row = dict[str, Any]
Results = dict[str, Any]
Change = Callable[[Results, list[Row]], None]
NF4 = {"quant_type": "nf4", "double_quant": True, "compute_dtype": "bfloat16"}
TASK = {"kind": "heldout", "name": "heldout", "max_items": None}
GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 20 + [0.0] * 80
POLICY: dict[str, Any] = {
    "tasks": [
        {"task": "heldout", "metric": "exact_match", "role": "improve", "against": "baseline", "margin": 0.1},
        {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "parent", "margin": 0.1},
        {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1},
    ]
}
"""What GOOD passes and BAD does not, against a BAD base."""


def item(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


def question(index: int) -> str:
    return f"question number {index}: how does one tune model {index * 7919} well?"


def evaluation(
    scores: Mapping[str, Sequence[float]] | Sequence[float],
    change: Change | None = None,
    *,
    subject: str = "m",
    nf4: Mapping[str, Any] | None = None,
    computed_with: str | None = None,
    clusters: Sequence[str] | None = None,
    fidelity: Mapping[str, Any] | None = None,
    late: Change | None = None,
) -> dict[str, bytes]:
    """File name → content. `change` damages it before its digests are taken, `late` after."""
    named = scores if isinstance(scores, Mapping) else {"exact_match": scores}
    n = len(next(iter(named.values())))
    rows: list[Row] = [
        {
            "item": item(i), "prompt_hash": item(-i - 1), "asked": question(i),
            "cluster": clusters[i] if clusters else None,
            "scores": {metric: values[i] for metric, values in named.items()},
        }
        for i in range(n)
    ]  # fmt: skip
    summary = {m: {"value": sum(v) / max(1, len(v)), "low": 0, "high": 1, "n": n} for m, v in named.items()}
    said: dict[str, Any] = {
        "config_digest": "c", "fewshot": 0, "limit": None, "samples": "samples_heldout.jsonl", "n": n,
        "metrics": summary,
    }  # fmt: skip
    results: Results = {
        "harness": {"name": "lm-eval", "version": "0.4.13"},
        "seed": 0,
        "chat_template": "t",
        "model": {"subject": subject, "bytes": 100, "bits_per_weight": 4.5, "nf4": nf4 and dict(nf4)},
        "tasks": {"heldout": said, **(fidelity or {})},
    }
    if computed_with is not None:
        results["model"]["computed_with"] = computed_with
    if change is not None:
        change(results, rows)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    said.setdefault("samples_sha256", hashlib.sha256(raw).hexdigest())
    if late is not None:
        late(results, rows)
        raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    files = {"samples_heldout.jsonl": raw, "results.json": json.dumps(results).encode()}
    return files | {f"samples_{name}.jsonl": b'{"item": "x", "scores": {}}\n' for name in fidelity or {}}


def fidelity_task(name: str, reference: str, **metrics: tuple[float, float, float]) -> dict[str, Any]:
    """One fidelity task of `results.json`; metric → (low, value, high)."""
    raw = b'{"item": "x", "scores": {}}\n'
    said = {
        "kind": "fidelity", "reference": {"subject": reference}, "finite": True, "n": 1, "config_digest": "f",
        "samples": f"samples_{name}.jsonl", "samples_sha256": hashlib.sha256(raw).hexdigest(),
        "fewshot": 0, "limit": 64,
        "metrics": {m: {"low": v[0], "value": v[1], "high": v[2], "n": 64} for m, v in metrics.items()},
    }  # fmt: skip
    return {name: said}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def parquet(questions: Sequence[str], answer: str = "topics") -> bytes:
    """A train split as the prepare stage writes it."""
    chats = [
        [
            {"role": "system", "content": "Name the topic."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer},
        ]
        for text in questions
    ]
    out = io.BytesIO()
    pq.write_table(pa.table({"messages": chats}), out)
    return out.getvalue()


class Lineage:
    """Base, dataset, adapter, merged and GGUF in a registry; evaluations are added as a test needs them."""

    def __init__(
        self, registry: Registry, trained_on: Sequence[str] = ("something else",), answer: str = "topics"
    ) -> None:
        self.registry = registry
        base, none = base_reference(), QuantSpec(method="none")
        model = {"config.json": b"{}", "model.safetensors": b"0"}
        self.base = publish(registry, "base", "resolve", model, base=base, quant=none)
        self.dataset = publish(
            registry, "dataset", "prepare", {"train.parquet": parquet(trained_on, answer)},
            (("tokenized_for", self.base),),
        )  # fmt: skip
        self.adapter = publish(
            registry, "adapter", "train", {"adapter_model.safetensors": b"weights"},
            (("adapter", self.base), ("trained_on", self.dataset)),
            base=base, config={"nf4": NF4}, quant=QuantSpec(method="bnb", requested=NF4),
        )  # fmt: skip
        self.merged = publish(
            registry, "merged", "merge", {"model.safetensors": b"merged"},
            (("merge", self.base), ("merge", self.adapter)),
            base=base, quant=QuantSpec(method="none", merge_base="16bit"),
        )  # fmt: skip
        self.gguf = self.quantized("Q4_K_M")

    def quantized(self, kind: str) -> Artifact:
        return publish(
            self.registry, "quantized", "quantize", {"model.gguf": f"GGUF {kind}".encode()},
            (("quantized", self.merged),), base=self.merged.manifest.base,
            quant=QuantSpec(method="gguf", requested={"method": "gguf", "type": kind}, merge_base="16bit"),
        )  # fmt: skip

    def evaluate(
        self, model: Artifact, scores: Any, change: Change | None = None, seed: int = 0, **given: Any
    ) -> Artifact:
        """Publish an evaluation of `model`, with the NF4 setting that its kind is measured with."""
        nf4 = given.pop("nf4", NF4 if model.manifest.kind in {"base", "adapter"} else None)
        subject = given.pop("subject", model.id)
        fidelity = given.get("fidelity") or {}
        files = evaluation(scores, change, subject=subject, nf4=nf4, **given)
        beneath = (("evaluation_of", self.base),) if model.manifest.kind == "adapter" else ()
        return publish(
            self.registry, "evaluation", "evaluate", files,
            (("evaluation_of", model), *beneath, ("evaluated_on", self.dataset)),
            base=model.manifest.base,
            config={"tasks": [TASK], "seed": seed, "nf4": nf4},
            metrics={"tasks": {"heldout": {}}, "fidelity": dict(fidelity)},
        )  # fmt: skip
