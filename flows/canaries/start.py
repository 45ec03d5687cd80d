"""Begin a canary, where a channel's policy asks for one before the channel moves."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from flows.gates.policy import GatePolicy
from registry import Registry
from registry.channels.channels import Channel
from registry.channels.decisions import CANARY
from registry.errors import CanaryUnderWay, NotFound

Start = Literal["started", "under way", "another", "refused", "moved"]


def start(
    registry: Registry, channel: Channel, candidate: str, policy: GatePolicy, decision: str
) -> tuple[Start, str]:
    """Try the candidate out on the channel as it was seen; says what became of that, and a word on it.

    "another": a canary of something else is under way, and keeps its place. "refused": an earlier canary of
    this candidate showed harm beside what is live. "moved": the channel moved since it was seen.
    """
    running = registry.rollouts.current(channel.name)
    if running is not None and running.canary_percent:
        return _under_way(running.candidate, candidate)
    for earlier in reversed(registry.gates.about(candidate)):
        if CANARY in earlier.evidence and earlier.baseline == channel.artifact_id:
            if earlier.verdict == "fail":
                return "refused", f"its canary showed harm; decision {earlier.id[:12]}"
            break
    assert policy.canary is not None
    if registry.channels.policy(channel.name) is None:
        why = f"taken over from gate decision {decision[:12]}, whose candidate is tried out"
        registry.channels.set_policy(channel.name, policy.model_dump(mode="json"), "tuneline run", why)
    reason = f"gate decision {decision[:12]} passed, and the policy asks for a canary"
    share = policy.canary.percent
    try:
        rollout = registry.rollouts.start(
            channel.name, candidate, share, 0.0, "tuneline run", reason, anew=True
        )
    except CanaryUnderWay as error:  # another run was faster
        return _under_way(error.candidate, candidate)
    if rollout.generation != channel.generation:
        with suppress(NotFound):  # the channel moved once more, which ended it
            registry.rollouts.stop(
                channel.name, "tuneline run", "the channel moved while the canary was started"
            )
        return "moved", "it was moved meanwhile; the gate judges again, against what is live now"
    return "started", f"canary of {share:g} % started"


def _under_way(running: str, candidate: str) -> tuple[Start, str]:
    if running == candidate:
        return "under way", "its canary is under way"
    return "another", f"the canary of {running[:12]} is under way; run again when it is decided"
