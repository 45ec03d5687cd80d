"""Decides about canaries: promotes what has shown it does no harm, stops what does, gives others up.

First the decision is recorded, signed and with its evidence; then it is done. After a kill in between, the
next judge looks at the counts of its own time, and cites the decision that is there where it says the same.
Two judges do no more than one: a channel moves by compare-and-swap, and a rollout that is over cannot be
stopped again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.canaries.evidence import VERDICTS, CanaryEvidence, CanaryTest, Ending
from flows.gates.policy import CanaryPolicy
from registry import Registry
from registry.channels.decisions import CANARY, GateDecision
from registry.channels.policies import ChannelPolicy
from registry.errors import Moved, NotFound, RegistryError
from registry.tenancy.rollouts import Rollout, in_force

log = logging.getLogger("tuneline.canary")

WHO = "canary judge"
FLUSHED_WITHIN = timedelta(seconds=10)
"""After a rollout's end, its last answers are written down."""


@dataclass(frozen=True)
class Judged:
    """What was decided, and what came of it."""

    channel: str
    candidate: str
    ending: Ending
    decision: str | None
    """None where no gate had let the candidate pass, so that there was nothing to decide."""
    sentence: str
    evidence: CanaryEvidence


class Judge:
    """Looks at every canary of a registry again and again. For one thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tests: dict[int, CanaryTest] = {}
        self._problems: dict[int, str] = {}

    def round(self, channel: str | None = None) -> list[Judged]:
        """Look at each once (or at that channel's only), and decide what can be decided.

        One that cannot be judged keeps no other waiting; the log says why, once for each reason.
        """
        judged = []
        canaries = dict(self._canaries(channel))
        self._tests = {sequence: test for sequence, test in self._tests.items() if sequence in canaries}
        problems, self._problems = self._problems, {}
        for sequence, (rollout, policy) in canaries.items():
            try:
                decided = self._look(sequence, rollout, policy)
            except (RegistryError, ValueError) as error:  # ValueError: a policy of another version
                self._problems[sequence] = str(error)
                if problems.get(sequence) != str(error):
                    log.error("the canary of %s was not judged: %s", rollout.channel, error)
                continue
            if decided is not None:
                judged.append(decided)
        return judged

    def evidence(self, channel: str) -> CanaryEvidence | None:
        """What is known of the channel's canary now, or None where none is judged there."""
        for rollout, policy in dict(self._canaries(channel)).values():
            test = self._test(rollout, policy)
            test.read(self._registry)
            return test.evidence(datetime.now(UTC))
        return None

    def _canaries(self, channel: str | None) -> Iterator[tuple[int, tuple[Rollout, ChannelPolicy]]]:
        with self._registry.database.read() as connection:
            rollouts = in_force(connection)
        for name, rollout in rollouts.items():
            if rollout.canary_percent and channel in (None, name):
                policy = self._registry.channels.policy(name)
                if policy is not None and policy.policy.get(CANARY):
                    yield rollout.sequence, (rollout, policy)

    def _test(self, rollout: Rollout, policy: ChannelPolicy) -> CanaryTest:
        asked = CanaryPolicy.model_validate(policy.policy[CANARY])
        known = self._tests.get(rollout.sequence)
        if known is None or known.policy != asked:
            current = self._registry.channels.get(rollout.channel)
            assert current is not None, "a rollout is of a channel that moved"
            since = self._since(rollout)
            known = self._tests[rollout.sequence] = CanaryTest(asked, rollout, current.artifact_id, since)
        return known

    def _since(self, rollout: Rollout) -> datetime:
        """The first minute whose answers are this rollout's alone."""
        minute = rollout.at.replace(second=0, microsecond=0)
        before = [event.at for event in self._registry.rollouts.history(rollout.channel)]
        ended = [at for at in before if at < rollout.at]
        mixed = bool(ended) and ended[-1] >= minute - FLUSHED_WITHIN
        return minute + timedelta(minutes=1) if mixed else minute

    def _look(self, sequence: int, rollout: Rollout, policy: ChannelPolicy) -> Judged | None:
        test, now = self._test(rollout, policy), datetime.now(UTC)
        test.read(self._registry)
        ending = test.ending(now)
        if ending is None:
            return None
        standing = self._registry.rollouts.current(rollout.channel)
        if standing is None or standing.sequence != sequence:
            return None  # somebody stopped or replaced it since it was read
        return self._end(rollout, policy, ending, test.evidence(now))

    def _end(
        self, rollout: Rollout, policy: ChannelPolicy, ending: Ending, evidence: CanaryEvidence
    ) -> Judged | None:
        current = self._registry.channels.get(rollout.channel)
        if current is None or current.generation != rollout.generation:
            return None
        passed = gate_passed(self._registry, rollout.candidate, current.artifact_id, policy.digest)
        decision = None
        if passed is not None:
            decision = self._recorded(passed, ending, evidence) or self._record(passed, ending, evidence)
        sentence = _sentence(ending, evidence)
        try:
            if ending == "safe" and decision is not None:
                self._registry.channels.move(
                    rollout.channel, rollout.candidate, rollout.generation, decision, who=WHO
                )
            else:
                if ending == "safe":
                    sentence += (
                        "; no valid gate decision lets it pass under the channel's policy, so it was stopped"
                    )
                cited = f"; decision {decision[:12]}" if decision else ""
                self._registry.rollouts.stop(rollout.channel, WHO, sentence + cited)
        except (Moved, NotFound):
            return None  # somebody else was faster
        return Judged(rollout.channel, rollout.candidate, ending, decision, sentence, evidence)

    def _recorded(self, passed: GateDecision, ending: Ending, evidence: CanaryEvidence) -> str | None:
        """The same decision about this rollout, which whoever recorded it did not carry out."""
        for decision in reversed(self._registry.gates.about(passed.candidate)):
            seen = decision.evidence.get(CANARY, {})
            about = (seen.get("rollout"), seen.get("after_decision"), seen.get("ending"))
            if about == (evidence.rollout, passed.id, ending):
                return decision.id
        return None

    def _record(self, passed: GateDecision, ending: Ending, evidence: CanaryEvidence) -> str:
        """The gate's decision again, with what live traffic showed."""
        verdict = VERDICTS[ending]
        rule = {"rule": CANARY, "kind": CANARY, "verdict": verdict, "sentence": _sentence(ending, evidence)}
        seen: dict[str, Any] = {
            "rules": [*passed.evidence.get("rules", ()), rule],
            CANARY: {**evidence.model_dump(mode="json"), "ending": ending, "after_decision": passed.id},
        }
        return self._registry.gates.record(
            passed.candidate, passed.baseline, passed.policy, verdict, {**passed.evidence, **seen}
        )


def gate_passed(registry: Registry, candidate: str, live: str, policy_digest: str) -> GateDecision | None:
    """The gate decision, before any canary, that lets the candidate take the live one's place.

    The newest one counts: None where the gate was asked again and no longer lets it pass.
    """
    for decision in reversed(registry.gates.about(candidate)):
        fits = decision.baseline == live and decision.policy_digest == policy_digest
        if fits and CANARY not in decision.evidence:
            stands = decision.verdict == "pass" and registry.gates.problem(decision) is None
            return decision if stands else None
    return None


def _sentence(ending: Ending, evidence: CanaryEvidence) -> str:
    seen = "; ".join(guardrail.sentence for guardrail in evidence.guardrails)
    after = f"after {evidence.requests:,} answers in {evidence.hours:.2f} hours"
    words = {
        "harm": "canary: shown to do harm",
        "safe": "canary: shown to be worse by less than every margin",
        "requests": "canary: given up, its requests are used up and nothing is shown",
        "hours": "canary: given up, its time is over and nothing is shown",
    }
    return f"{words[ending]}, {after} ({seen})"
