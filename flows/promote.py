"""Gate a candidate, then move the channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.gate import Decision, Evidence, GatePolicy, decide, load_evidence, without_live
from flows.report import StageRow
from flows.step import Run
from registry import Artifact
from registry.channels import Channel


@dataclass(frozen=True)
class Offer:
    """A model and the evaluation that speaks for it."""

    model: Artifact
    evaluation: Artifact


@dataclass(frozen=True)
class Verdict:
    """A recorded gate decision."""

    id: str
    decision: Decision

    @property
    def passed(self) -> bool:
        return self.decision.verdict == "pass"


def judge(
    run: Run,
    policy: GatePolicy,
    channel: str,
    offer: Offer,
    *,
    baseline: Offer,
    parent: Offer,
    measure: Callable[[Artifact], Artifact],
) -> Verdict:
    """Compare `offer` with the quantized base, its own merged parent and what is live; record the decision.

    `measure` evaluates the channel's current artifact on the same items. The decision names the channel's
    current artifact as its baseline (the base model while the channel is empty): that is what it may replace.
    """
    current = run.registry.channels.get(channel)
    live = run.registry.get(current.artifact_id) if current else None
    references = {"baseline": baseline, "parent": parent}
    if live is None:
        policy = without_live(policy)
    else:
        evaluation = offer.evaluation if live.id == offer.model.id else measure(live)
        references["live"] = Offer(live, evaluation)

    def work() -> tuple[Verdict, StageRow]:
        decision = decide(
            policy, _evidence(run, offer), {name: _evidence(run, other) for name, other in references.items()}
        )
        recorded = run.registry.gates.record(
            candidate=offer.model.id,
            baseline=(live or baseline.model).id,
            policy=policy.model_dump(mode="json"),
            verdict=decision.verdict,
            evidence=decision.model_dump(mode="json"),
        )
        row = StageRow("gate", "gate", None, "ran", 0.0, None, decision.verdict)
        return Verdict(recorded, decision), row

    return run.task("gate", "gate", work)


def _evidence(run: Run, offer: Offer) -> Evidence:
    return load_evidence(run.registry.view(offer.evaluation.id), offer.evaluation.id)


def promote(run: Run, channel: str, offer: Offer, verdict: Verdict) -> Channel:
    """Move `channel` to the offered artifact on a passing verdict; nothing moves if it is there already."""

    def work() -> tuple[Channel, StageRow]:
        current = run.registry.channels.get(channel)
        if current is not None and current.artifact_id == offer.model.id:
            return current, StageRow(
                f"promote to {channel}", "promote", offer.model.id, "reused", 0.0, None, ""
            )
        moved = run.registry.channels.move(
            channel, offer.model.id, current.generation if current else 0, decision_id=verdict.id
        )
        note = f"generation {moved.generation}"
        return moved, StageRow(f"promote to {channel}", "promote", offer.model.id, "ran", 0.0, None, note)

    return run.task("promote", f"promote to {channel}", work)
