"""A registry of thousands of artifacts, made in seconds: for pages, bars and backups.

    python -m tests.registry.large HOME --artifacts 10000

Artifacts come in families as runs publish them, with tiny files that verify; channels, gate decisions,
tenants, rollouts, endpoints and outcomes are made through the registry. Rows of artifacts are written many at
a time under all constraints and triggers, with times spread over the last 90 days.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from flows.gates.gate import Decision
from flows.gates.rules import RuleResult
from registry import Registry, Waiver, catalog
from registry.artifacts import (
    BaseReference,
    FileEntry,
    Kind,
    Manifest,
    Parentage,
    QuantSpec,
    Relation,
    digest,
)
from registry.channels.decisions import Verdict
from registry.db.tables import artifacts, edges, executions, keys, names
from registry.processes import ProcessId, host_id
from registry.tenancy.outcomes import Outcome
from registry.tenancy.tenants import TenantLimits

FAMILY = 20
"""Artifacts of a family: a dataset, five times adapter, merged and quantized model, four evaluations."""
CHAIN = 200
"""Nodes of the longest lineage: a base, three for each step, and the quantized model at its end."""
DAYS = 90
TOOLCHAIN = {"torch": "2.13.0", "transformers": "5.19.0", "peft": "0.21.2"}
NF4 = {"quant_type": "nf4", "double_quant": True, "compute_dtype": "bfloat16"}
POLICY = {
    "tasks": [
        {"task": "heldout", "metric": "exact_match", "role": "improve", "against": "baseline", "margin": 0.0},
        {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.02},
    ]
}
Parents = tuple[tuple[Relation, str], ...]


@dataclass
class LargeRegistry:
    """Ids of what is in it, in the order in which it was made."""

    home: Path
    ids: list[str] = field(default_factory=list)
    evaluated: list[tuple[str, str, float]] = field(default_factory=list)
    """Quantized models, each with its evaluation and score."""
    deepest: str = ""
    """The model with `CHAIN` nodes in its lineage."""
    root: str = ""
    """The base of that model."""


def large_registry(home: Path, artifacts: int, channels: int = 20, seed: int = 0) -> LargeRegistry:
    """A new registry in `home` with so many artifacts (`CHAIN` and a few families) and so many channels."""
    chance = random.Random(seed)
    with Registry.open(home) as registry:
        writer = _Writer(registry, artifacts, chance)
        with registry.database.write() as connection:
            writer.fill(connection)
        _channels(registry, writer.made, channels, chance)
        _serving(registry, writer.made, channels, chance)
    return writer.made


class _Writer:
    """Rows and blobs of artifacts, as publications write them."""

    def __init__(self, registry: Registry, count: int, chance: random.Random) -> None:
        self.made = LargeRegistry(registry.home)
        self._count, self._chance = count, chance
        self._blobs = registry.home / "blobs"
        self._rows: dict[Any, list[dict[str, Any]]] = {}
        self._end = datetime.now(UTC)

    def fill(self, connection: Connection) -> None:
        self._chain()
        family = 0
        while len(self.made.ids) < self._count:
            if family % 10 == 0:
                base, root = self._base(family // 10)
            self._family(family, base, root)
            family += 1
        for table in (artifacts, edges, keys, executions, names):
            connection.execute(insert(table), self._rows.pop(table))

    def _base(self, number: int) -> tuple[BaseReference, str]:
        of = {name: digest([number, name]) for name in ("revision", "weights", "tokenizer", "template")}
        base = BaseReference(
            source=f"hub:acme/model-{number}", revision=of["revision"][:40], weights_digest=of["weights"],
            tokenizer_digest=of["tokenizer"], tokenizer_length=49152, embedding_rows=49152,
            chat_template_digest=of["template"], architecture="LlamaForCausalLM",
        )  # fmt: skip
        quant = QuantSpec(method="none")
        return base, self._add("base", "resolve", (), base=base, quant=quant, config={"number": number})

    def _chain(self) -> None:
        """One model tuned over and over: dataset, adapter, merged model, and again from there."""
        base, self.made.root = self._base(10**6)
        current = self.made.root
        for step in range((CHAIN - 2) // 3):
            facts = {"config": {"step": step}, "base": base}
            data = self._dataset(f"chain {step}", current)
            current = self._merged(current, self._adapter(current, data, **facts), **facts)
        self.made.deepest = self._quantized(current, 0, config={"step": "last"}, base=base)
        self._rows.setdefault(names, []).append(
            {"name": "long-line", "version": 1, "artifact_id": self.made.deepest}
        )

    def _family(self, number: int, base: BaseReference, root: str) -> None:
        room = min(FAMILY, self._count - len(self.made.ids))
        data = self._dataset(f"family {number}", root)
        for step in range(5):
            facts = {"config": {"family": number, "step": step, "rank": 8 * (step + 1)}, "base": base}
            adapter = self._adapter(root, data, **facts) if room > 1 else ""
            merged = self._merged(root, adapter, **facts) if room > 2 else ""
            quantized = self._quantized(merged, number, **facts) if room > 3 else ""
            room -= 3 + (step < 4)
            if step < 4 and room >= 1:
                self._evaluation(quantized, data, number, base)
            if room <= 1:
                break

    def _dataset(self, label: str, root: str) -> str:
        tokens = {"histogram": {"edges": [0, 64, 128, 256, 512], "counts": [120, 340, 80, 12]}}
        rows = {"read": 552, "accepted": 552, "rejected": 0}
        splits = {"train": {"rows": 500}, "heldout": {"rows": 52}}
        metrics = {"rows": rows, "tokens": tokens, "splits": splits}
        parents: Parents = (("tokenized_for", root),)
        return self._add("dataset", "prepare", parents, config={"path": label}, metrics=metrics)

    def _adapter(self, root: str, data: str, **facts: Any) -> str:
        quant = QuantSpec(method="bnb", requested=NF4, effective=NF4, toolchain=TOOLCHAIN)
        parents: Parents = (("adapter", root), ("trained_on", data))
        loss = round(self._chance.uniform(0.3, 1.4), 4)
        return self._add("adapter", "train", parents, quant=quant, metrics={"train_loss": loss}, **facts)

    def _merged(self, root: str, adapter: str, **facts: Any) -> str:
        quant = QuantSpec(method="none", merge_base="16bit", toolchain=TOOLCHAIN)
        return self._add("merged", "merge", (("merge", root), ("merge", adapter)), quant=quant, **facts)

    def _quantized(self, merged: str, number: int, **facts: Any) -> str:
        kind = ("Q4_K_M", "Q5_K_M", "Q8_0")[number % 3]
        quant = QuantSpec(
            method="gguf", requested={"method": "gguf", "type": kind}, merge_base="16bit",
            effective={"bits_per_weight": 4.85, "types": {kind: 210, "F32": 61}}, toolchain=TOOLCHAIN,
        )  # fmt: skip
        return self._add("quantized", "quantize", (("quantized", merged),), quant=quant, **facts)

    def _evaluation(self, model: str, data: str, number: int, base: BaseReference) -> None:
        value = round(self._chance.uniform(0.4, 0.9), 4)
        score = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 231, "interval": "wilson"}
        metrics = {
            "tasks": {"heldout": {"exact_match": score}}, "fidelity": {}, "bytes": 98_000_000,
            "bits_per_weight": 4.85, "measured_on": "gguf file in llama.cpp",
        }  # fmt: skip
        parents: Parents = (("evaluation_of", model), ("evaluated_on", data))
        config = {"family": number, "tasks": [{"kind": "heldout", "name": "heldout"}]}
        made = self._add("evaluation", "evaluate", parents, base=base, config=config, metrics=metrics)
        self.made.evaluated.append((model, made, value))
        if number % 4 == 0:
            row = {"name": f"model-{number // 20}", "artifact_id": model}
            earlier = [r for r in self._rows.get(names, []) if r["name"] == row["name"]]
            self._rows.setdefault(names, []).append({**row, "version": len(earlier) + 1})

    def _add(self, kind: Kind, stage: str, parents: Parents, **facts: Any) -> str:
        number = len(self.made.ids)
        name = {"dataset": "train.jsonl", "evaluation": "results.json"}.get(kind, "model.safetensors")
        files = {name: self._blob(f"{kind} {number} ".encode() * 20)}
        if kind not in ("dataset", "evaluation"):
            files["config.json"] = self._blob(b'{"architectures":["LlamaForCausalLM"]}')
        manifest = Manifest(
            kind=kind, stage=stage, stage_version=1, toolchain=TOOLCHAIN, files=files,
            parents=tuple(Parentage(relation=relation, id=id_) for relation, id_ in parents),
            **{"config": {}, **facts},
        )  # fmt: skip
        at = self._end - timedelta(days=DAYS * (1 - number / self._count))
        created = at.isoformat(timespec="microseconds")
        columns = catalog._columns(manifest, "", created)
        made = hashlib.sha256(columns["manifest"].encode()).hexdigest()
        key = digest(["large", number])
        self._row(artifacts, **{**columns, "id": made})
        for relation, parent in sorted(set(parents)):
            self._row(edges, child=made, relation=relation, parent=parent)
        self._row(keys, key=key, artifact_id=made, created=created)
        self._row(
            executions, artifact_id=made, key=key, started=created, host=host_id(),
            seconds=round(self._chance.expovariate(1 / 60), 3),
            peak_bytes=self._chance.randrange(2**31, 2**33),
        )  # fmt: skip
        self.made.ids.append(made)
        return made

    def _row(self, table: Any, **values: Any) -> None:
        self._rows.setdefault(table, []).append(values)

    def _blob(self, content: bytes) -> FileEntry:
        entry = FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        path = self._blobs / entry.sha256[:2] / entry.sha256
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o444)
        return entry


def _channels(registry: Registry, made: LargeRegistry, count: int, chance: random.Random) -> None:
    """Each channel moves four times by a signed decision; some have failed ones, a waiver, a rollback."""
    for number in range(count):
        channel = _channel(number)
        for generation in range(4):
            candidate, measured, score = chance.choice(made.evaluated)
            current = registry.channels.get(channel)
            if current is not None and current.artifact_id == candidate:
                continue
            standing = current.generation if current else 0
            baseline = current.artifact_id if current else None
            if generation == 2:
                _decide(registry, candidate, baseline, measured, "fail", -0.06)
            verdict: Verdict = "insufficient" if generation == 3 and number % 5 == 0 else "pass"
            decision = _decide(registry, candidate, baseline, measured, verdict, score - 0.4)
            waiver = None if verdict == "pass" else Waiver("the held-out rows of this week are few", "ada")
            by = decision if waiver is None else None
            registry.channels.move(channel, candidate, standing, by, waiver=waiver)
        if number % 4 == 1:
            registry.channels.rollback(channel, reason="answers got longer", who="grace")


def _channel(number: int) -> str:
    return f"team-{number % 5}/{('prod', 'canary', 'staging', 'lab')[number // 5 % 4]}" + (
        f"-{number // 20}" if number >= 20 else ""
    )


def _decide(
    registry: Registry, candidate: str, baseline: str | None, measured: str, verdict: Verdict, effect: float
) -> str:
    rule = RuleResult(
        rule="heldout/exact_match improve", verdict=verdict, effect=effect, low=effect - 0.03,
        high=effect + 0.03, threshold=0.0, alpha=0.05, n=231, sentence=f"{effect:+.3f} on 231 items",
    )  # fmt: skip
    decision = Decision(
        verdict=verdict, rules=(rule,), evidence={"candidate": digest(measured)},
        evaluations={"candidate": measured},
    )  # fmt: skip
    evidence: Mapping[str, Any] = decision.model_dump(mode="json")
    return registry.gates.record(candidate, baseline, POLICY, verdict, evidence)


def _serving(registry: Registry, made: LargeRegistry, channels: int, chance: random.Random) -> None:
    """Tenants of the channels, a day of outcomes, rollouts under way, and endpoints running and stopped."""
    minute = datetime.now(UTC) - timedelta(hours=24)
    for number in range(channels):
        channel = _channel(number)
        limits = TenantLimits(requests_per_minute=60 * (number + 1), tokens_per_day=10**6)
        registry.tenants.add(f"tenant-{number}", channel, "ada", limits if number % 3 else None, number == 0)
        standing = registry.channels.get(channel)
        assert standing is not None
        registry.outcomes.add([
            Outcome(
                channel=channel, generation=standing.generation, artifact_id=standing.artifact_id, arm="live",
                minute=minute + timedelta(minutes=15 * step), requests=chance.randrange(20, 200),
                failed=chance.randrange(3), prompt_tokens=9000, completion_tokens=4000,
                latencies_ms=[float(chance.randrange(80, 900)) for _ in range(8)],
                first_token_ms=[float(chance.randrange(10, 90)) for _ in range(8)],
            )
            for step in range(96)
        ])  # fmt: skip
        if number % 6 == 2:
            candidate = next(m for m, *_ in made.evaluated if m != standing.artifact_id)
            registry.rollouts.start(channel, candidate, 10.0, 5.0, who="ada", reason="try the new data")
        if number % 2 == 0:
            endpoint = registry.endpoints.add(
                artifact_id=standing.artifact_id, engine="llama.cpp", url=f"http://127.0.0.1:{9000 + number}",
                process=ProcessId(2**22 + number, 1.0), log="engine.log", channel=channel,
            )  # fmt: skip
            if number % 4 == 0:
                registry.endpoints.mark_stopped(endpoint.id)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("home", type=Path, help="a directory without a registry")
    arguments.add_argument("--artifacts", type=int, default=10_000)
    given = arguments.parse_args()
    began = datetime.now(UTC)
    made = large_registry(given.home, given.artifacts)
    print(f"{len(made.ids)} artifacts in {(datetime.now(UTC) - began).total_seconds():.1f} s; the deepest")
    print(f"lineage is of {made.deepest[:12]}")


if __name__ == "__main__":
    main()
