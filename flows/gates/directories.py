"""What a gate reads in plain directories, without a registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.errors import Usage
from flows.gates.evidence import Evidence, load_evidence
from flows.gates.gate import CandidateFacts
from flows.gates.measured import measured, recorded
from flows.gates.policy import WORDS, GatePolicy, Reference
from flows.gates.sources import GateInput, search_training_data


def from_directories(
    policy: GatePolicy,
    candidate: Path,
    baseline: Path,
    parent: Path | None = None,
    quant: str | None = None,
    trained_on: Path | None = None,
    latency_ms: Sequence[float] | None = None,
) -> GateInput:
    """Evaluations as `tuneline evaluate` wrote them; the baseline stands for the base and what is live."""
    paths: dict[Reference, Path | None] = {"baseline": baseline, "live": baseline, "parent": parent}
    needed = {rule.against for rule in policy.tasks}
    references = {
        str(role): _as_given(role, load_evidence(path, str(path)))
        for role, path in paths.items()
        if path and role in needed
    }
    if "parent" in needed and parent is None:
        raise Usage(f"the policy has rules against {WORDS['parent']}: give its evaluation with --parent DIR")
    evidence = load_evidence(candidate, str(candidate))
    missing = []
    if policy.evidence.lineage or policy.evidence.verified:
        missing.append("a plain directory has no lineage and no digests; gate a registered artifact")
    facts = CandidateFacts(
        quant=_quant(evidence, quant),
        seen=search_training_data(policy, evidence, trained_on) if trained_on else None,
        unsearched="the training data are not known: give them with --trained-on",
        latency_ms=latency_ms,
        missing=tuple(missing),
    )
    return GateInput(evidence, references, facts)


def _as_given(role: str, evidence: Evidence) -> Evidence:
    """A directory's evaluation, called by the option that gave it: nobody knows of what model it is."""
    option = "the given parent" if role == "parent" else "the given baseline"
    return evidence.model_copy(update={"called": f"{option} ({recorded(evidence.computed_with)})"})


def _quant(evidence: Evidence, given: str | None) -> str | None:
    """The candidate's quantization as given. Raises `Usage` where its evaluation recorded another one."""
    measurement = measured(evidence.computed_with)
    if given is None or measurement is None:
        return given
    if measurement.quant != given.lower() and not (
        measurement.engine == "llama.cpp" and given.upper().startswith(measurement.form)
    ):
        raise Usage(
            f"--quant {given}: the candidate's evaluation says {recorded(evidence.computed_with)}; "
            f"expected {measurement.quant}, or leave --quant out where the policy limits no fidelity"
        )
    return given
