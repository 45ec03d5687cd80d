"""Gate a candidate, then move the channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.gates.channel import RecordedDecision, record, refuse_other_policy
from flows.gates.gate import GatePolicy, decide
from flows.gates.sources import from_registry
from flows.run.stage_row import StageRow
from flows.run.step import Run
from registry import Artifact
from registry.channels.channels import Channel
from registry.errors import Moved


@dataclass(frozen=True)
class Candidate:
    """A model and the evaluation that speaks for it."""

    model: Artifact
    evaluation: Artifact


def judge(
    run: Run,
    policy: GatePolicy,
    channel: str,
    offer: Candidate,
    current: Channel | None,
    *,
    baseline: Candidate,
    parent: Candidate,
    measure: Callable[[Artifact], Artifact],
) -> RecordedDecision:
    """Compare `offer` with the quantized base, its own merged parent and what is live; record the decision.

    `current` is the channel as it is seen now; `measure` evaluates its artifact on the same items. The
    decision names that artifact as its baseline (the base model while the channel is empty): that is what it
    may replace. A channel without a policy takes over that of the first decision that moves it, whatever was
    decided about it before. Raises `Usage` if it has another one.
    """
    live = run.registry.get(current.artifact_id) if current else None
    evaluations = {
        "candidate": offer.evaluation, "baseline": baseline.evaluation, "parent": parent.evaluation,
    }  # fmt: skip
    if live is not None:
        evaluations["live"] = offer.evaluation if live.id == offer.model.id else measure(live)

    def work() -> tuple[RecordedDecision, StageRow]:
        refuse_other_policy(run.registry, channel, policy)
        case = from_registry(run.registry, policy, offer.model, live, baseline.model, evaluations)
        decision = decide(policy, case.evidence, case.references, case.facts)
        verdict = record(run.registry, policy, case, decision)
        return verdict, StageRow("gate", "gate", None, "ran", 0.0, None, decision.verdict)

    return run.task("gate", "gate", work)


def promote(
    run: Run, channel: str, offer: Candidate, verdict: RecordedDecision, seen: Channel | None
) -> Channel | None:
    """Move `channel` to the offered artifact on a passing verdict; nothing moves if it is there already.

    None where somebody else moved it since it was `seen`: the verdict is about what was live before.
    """
    label = f"promote to {channel}"

    def work() -> tuple[Channel | None, StageRow]:
        why = "somebody else moved it meanwhile; the gate judges again, against what is live now"
        elsewhere = None, StageRow(label, "promote", None, "skipped", 0.0, None, why)
        if seen is not None and seen.artifact_id == offer.model.id:
            if run.registry.channels.get(channel) != seen:
                return elsewhere
            return seen, StageRow(label, "promote", offer.model.id, "reused", 0.0)
        generation = seen.generation if seen else 0
        try:
            moved = run.registry.channels.move(channel, offer.model.id, generation, decision_id=verdict.id)
        except Moved:
            return elsewhere
        note = f"generation {moved.generation}"
        return moved, StageRow(label, "promote", offer.model.id, "ran", 0.0, None, note)

    return run.task("promote", label, work)
