"""The HTTP API against generated requests: `python -m tests.reliability.api --examples 2000`.

schemathesis reads the API's own OpenAPI document and asks, in process, a registry with real rows: valid and
invalid parameters, values at every limit, undocumented methods, with and without the token. Prints one JSON
document; exits with 1 if an answer broke its description, was a server's error, or let the wrong one in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from registry import Artifact, Registry, Waiver
from registry.api.app import application
from registry.artifacts import BaseReference, Kind, Parentage, QuantSpec, Relation, StageResult, memo_key
from registry.catalog import ResourceUse
from registry.processes import ProcessId

TOKEN = "a-token-of-the-test"
USE = ResourceUse(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), seconds=1.5, peak_bytes=1000)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def reference(revision: str = "a" * 40) -> BaseReference:
    """A base model that nobody has."""
    return BaseReference(
        source="hub:acme/tiny", revision=revision, weights_digest=_sha("weights"), tokenizer_length=100,
        tokenizer_digest=_sha("tokenizer"), embedding_rows=128, chat_template_digest=_sha("template"),
        architecture="LlamaForCausalLM",
    )  # fmt: skip


def add(
    registry: Registry,
    kind: Kind,
    label: str,
    parents: Iterable[tuple[Relation, Artifact]] = (),
    **facts: Any,
) -> Artifact:
    """Publish an artifact of two small files."""
    key = memo_key("prepare", 1, {"kind": kind, "label": label}, {}, {})
    model = kind not in {"dataset", "evaluation"}
    with registry.draft(key, "prepare", holds=[parent.id for _, parent in parents]) as draft:
        (draft.path / "facts.txt").write_text(f"{kind} {label}")
        (draft.path / "model").mkdir()
        (draft.path / "model" / "config.json").write_text("{}")
        known = {
            "stage": "prepare",
            "base": reference() if model else None,
            "quant": QuantSpec(method="none") if model else None,
            **facts,
        }
        result = StageResult(
            kind=kind,
            stage_version=1,
            config={"label": label},
            toolchain={"torch": "2.13.0"},
            parents=tuple(Parentage(relation=relation, id=parent.id) for relation, parent in parents),
            **known,
        )
        return draft.commit(result, USE)


def fill(registry: Registry, runs: int = 4) -> dict[str, list[Artifact]]:
    """Several lifecycles: a base, then per run a dataset, an adapter, a merged and a quantized model, each
    evaluated, gated, promoted, named and served. Returns the artifacts by kind."""
    base = add(registry, "base", "base", stage="resolve")
    made: dict[str, list[Artifact]] = {"base": [base]}
    for run in range(runs):
        dataset = add(registry, "dataset", f"{run}", [("tokenized_for", base)])
        adapter = add(
            registry, "adapter", f"{run}", [("adapter", base), ("trained_on", dataset)], stage="train"
        )
        merged = add(registry, "merged", f"{run}", [("merge", base), ("merge", adapter)], stage="merge")
        quant = QuantSpec(method="gguf", requested={"type": "Q4_K_M"}, effective={"bits_per_weight": 6.17})
        model = add(registry, "quantized", f"{run}", [("quantized", merged)], stage="quantize", quant=quant)
        evaluation = add(
            registry, "evaluation", f"{run}", [("evaluation_of", model), ("evaluated_on", dataset)],
            stage="evaluate", metrics={"accuracy": 0.5 + run / 10, "measured_on": "64 items"},
        )  # fmt: skip
        _promote(registry, run, model, evaluation, base)
        for artifact in (dataset, adapter, merged, model, evaluation):
            made.setdefault(artifact.manifest.kind, []).append(artifact)
    registry.channels.rollback("support/prod", reason="answers in the wrong language", who="ops")
    return made


def _promote(registry: Registry, run: int, model: Artifact, evaluation: Artifact, base: Artifact) -> None:
    current = registry.channels.get("support/prod")
    decision = registry.gates.record(
        model.id, current.artifact_id if current else base.id, {"tasks": []}, "pass",
        {"candidate": evaluation.id, "effect": 0.1 * run},
    )  # fmt: skip
    generation = current.generation if current else 0
    registry.channels.move("support/prod", model.id, generation, decision_id=decision)
    registry.channels.move(f"team-{run}/canary", model.id, 0, waiver=Waiver("the first", "ops"))
    registry.name(model.id, "support")
    registry.endpoints.add(
        artifact_id=model.id, engine="llama.cpp", url="http://127.0.0.1:8000", process=ProcessId(1, 1.0),
        log=registry.home / "logs" / "engine.log", channel="support/prod", question="Where?", answer="Here.",
    )  # fmt: skip


def fuzz(registry: Registry, examples: int, seed: int, token: str | None = None) -> dict[str, Any]:
    """Every check of schemathesis in every phase; returns counts and what went wrong."""
    load_all_checks()
    made = fill(registry)
    refs = [a.id for kind in made.values() for a in kind] + [
        "support/prod",
        "support@2",
        made["base"][0].id[:9],
    ]
    decision = registry.gates.latest(made["quantized"][0].id)
    assert decision is not None
    config = SchemathesisConfig.from_dict({
        "seed": seed,
        "base-url": "http://localhost",
        **({"auth": {"openapi": {"HTTPBearer": {"bearer": token}}}} if token else {}),
        "generation": {"max-examples": examples},
        "phases": {"fuzzing": {"enabled": True}, "stateful": {"enabled": True}},
        "dictionaries": {
            "refs": {"values": refs}, "decisions": {"values": [decision.id]},
            "revisions": {"values": ["a" * 40]}, "teams": {"values": ["support", "team-1"]},
        },
        "parameters": {
            "path.ref": {"dictionary": "refs"}, "path.id": {"dictionary": "decisions"},
            "query.base_revision": {"dictionary": "revisions"}, "path.team": {"dictionary": "teams"},
        },
    })  # fmt: skip
    app = application(registry, token)
    headers = {"Host": "localhost"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return _run(schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=headers))


def _run(schema: Any) -> dict[str, Any]:
    statuses: Counter[int] = Counter()
    checked: Counter[str] = Counter()
    wrong: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            wrong.append(repr(event))
        if isinstance(event, events.ScenarioFinished):
            statuses.update(
                i.response.status_code for i in event.recorder.interactions.values() if i.response
            )
            for checks in event.recorder.checks.values():
                checked.update(check.name for check in checks)
                wrong += [
                    f"{check.name}: {check.failure_info.failure}: {check.failure_info.code_sample}"
                    for check in checks
                    if check.failure_info is not None
                ]
    return {"requests": statuses.total(), "statuses": dict(statuses), "checks": dict(checked), "wrong": wrong}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--examples", type=int, default=200, help="generated requests per operation and phase"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, token in (("open", None), ("with a token", TOKEN)):
            with Registry.open(Path(folder) / name) as registry:
                report[name] = fuzz(registry, given.examples, given.seed, token)
    print(json.dumps({**report, "seconds": round(time.monotonic() - begun, 1)}, indent=2))
    return 1 if any(part["wrong"] or not part["requests"] for part in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
