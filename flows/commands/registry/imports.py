"""The commands `artifacts import` and `artifacts compat`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.console import Console

from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.formatting import short
from registry import Artifact, Registry


def artifacts_import(arguments: argparse.Namespace) -> Reply:
    """Publish somebody else's files, and say what is known of them."""
    from flows.exchange.artifact_import import adopt

    registry = open_registry(make=True)
    adoption = adopt(registry, arguments.path, arguments.kind, arguments.base)
    artifact, findings = adoption.artifact, adoption.findings
    version = registry.name(artifact.id, arguments.name) if arguments.name else None
    document = {
        "id": artifact.id,
        "kind": artifact.manifest.kind,
        "base": adoption.base.id,
        "name": None if version is None else f"{arguments.name}@{version}",
        **vars(findings),
        "left_out": adoption.left_out,
    }

    def show() -> None:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        named = f" as {document['name']}" if document["name"] else ""
        console.print(f"{artifact.manifest.kind} {short(artifact.id)}{named}, base {short(adoption.base.id)}")
        for words, lines in (
            ("established", findings.established),
            ("claimed, not verified", findings.claimed),
            ("not established", findings.not_established),
            ("left out", adoption.left_out),
        ):
            for line in lines:
                console.print(f"  {words}: {line}")

    return Reply(document, show)


def _measured(registry: Registry, first: Artifact, other: Artifact) -> bool:
    """Whether some evaluation measured the two together, with the weights as they are stored."""
    return any(
        {first.id, other.id} <= {p.id for p in evaluation.manifest.parents if p.relation == "evaluation_of"}
        and evaluation.manifest.config.get("nf4") is None
        for evaluation in registry.evaluations(first.id)
    )


def artifacts_compat(arguments: argparse.Namespace) -> Reply:
    """Every check of the contract, one line each."""
    from registry.compat.contract import examine
    from registry.compat.model import Use, pair
    from serving.engine.capabilities import limits
    from stages.families.support import known_to_llama_cpp

    registry = open_registry()
    first, other = registry.get(arguments.a), registry.get(arguments.b) if arguments.b else None
    a, b = first.manifest, other.manifest if other else None
    engine = limits(arguments.engine, arguments.max_rank) if arguments.engine else None
    known = known_to_llama_cpp() if arguments.engine == "llama.cpp" else None
    measured = other is not None and _measured(registry, first, other)
    use = Use(
        engine, arguments.context_length, architectures=known, naming=engine is not None, measured=measured
    )
    answers = examine(pair(a, b, use))
    states = {answer.state for answer in answers}
    verdict = "refused" if "refused" in states else "unknown" if "unknown" in states or not answers else "ok"
    document = {"verdict": verdict, "checks": [asdict(answer) for answer in answers]}

    def show() -> None:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        for answer in answers:
            console.print(f"{answer.state:<8} {answer.line()}")
        closing = {
            "ok": "They go together.",
            "refused": "They do not go together.",
            "unknown": "No conflict was found, but not everything is known.",
        }
        console.print(closing[verdict])

    refused = verdict == "refused" or (verdict == "unknown" and arguments.strict)
    return Reply(document, show, 3 if refused else 0)
