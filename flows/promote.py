"""Gate a candidate, then move the channel."""

from __future__ import annotations

from flows.canaries.start import start
from flows.candidate import Candidate
from flows.gates.channel import RecordedDecision, record, refuse_other_policy
from flows.gates.gate import GatePolicy, decide
from flows.gates.judged.labels import Labels
from flows.gates.sources import from_registry
from flows.run.stage_row import StageRow, State
from flows.run.step import Run
from registry.channels.channels import Channel
from registry.errors import Moved


def judge(
    run: Run,
    policy: GatePolicy,
    channel: str,
    candidate: Candidate,
    baseline: Candidate,
    parent: Candidate,
    live: Candidate | None,
    labels: Labels | None = None,
) -> RecordedDecision:
    """Compare `candidate` with the quantized base, what it was made of and what is live; record the decision.

    The decision names what is live as its baseline (the base model while the channel is empty): that is what
    it may replace. A channel without a policy takes over that of the first decision that moves it, whatever
    was decided about it before. Raises `Usage` if it has another one. `labels`: what people said of answers.
    """
    compared = {"candidate": candidate, "baseline": baseline, "parent": parent, "live": live}
    evaluations = {role: measured.evaluation for role, measured in compared.items() if measured is not None}

    def work() -> tuple[RecordedDecision, StageRow]:
        refuse_other_policy(run.registry, channel, policy)
        current = live.model if live else None
        case = from_registry(run.registry, policy, candidate.model, current, baseline.model, evaluations)
        decision = decide(policy, case.evidence, case.references, case.facts, labels=labels)
        verdict = record(run.registry, policy, case, decision)
        return verdict, StageRow("gate", "gate", None, "ran", 0.0, None, decision.verdict)

    return run.task("gate", "gate", work)


def promote(
    run: Run, channel: str, candidate: Candidate, verdict: RecordedDecision, seen: Channel | None
) -> Channel | None:
    """Move `channel` to the candidate on a passing verdict; nothing moves if it is there already.

    None where somebody else moved it since it was `seen`: the verdict is about what was live before.
    """
    label = f"promote to {channel}"

    def work() -> tuple[Channel | None, StageRow]:
        why = "it was moved meanwhile; the gate judges again, against what is live now"
        elsewhere = None, StageRow(label, "promote", None, "skipped", 0.0, None, why)
        if seen is not None and seen.artifact_id == candidate.model.id:
            if run.registry.channels.get(channel) != seen:
                return elsewhere
            return seen, StageRow(label, "promote", candidate.model.id, "reused", 0.0)
        generation = seen.generation if seen else 0
        try:
            moved = run.registry.channels.move(
                channel, candidate.model.id, generation, decision_id=verdict.id
            )
        except Moved:
            return elsewhere
        note = f"generation {moved.generation}"
        return moved, StageRow(label, "promote", candidate.model.id, "ran", 0.0, None, note)

    return run.task("promote", label, work)


def try_out(
    run: Run, candidate: Candidate, verdict: RecordedDecision, policy: GatePolicy, seen: Channel
) -> Channel | None:
    """Begin the canary that the policy asks for; the channel as it stays, or None where somebody moved it."""
    label = f"canary on {seen.name}"

    def work() -> tuple[Channel | None, StageRow]:
        state, note = start(run.registry, seen, candidate.model.id, policy, verdict.id)
        became: State = {"started": "ran", "under way": "reused"}.get(state, "skipped")  # type: ignore[assignment]
        return None if state == "moved" else seen, StageRow(
            label, "promote", candidate.model.id, became, 0.0, None, note
        )

    return run.task("promote", label, work)
