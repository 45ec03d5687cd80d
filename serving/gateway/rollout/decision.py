"""Which artifact answers: what the channel points to, or for some conversations a candidate."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from registry.tenancy.rollouts import Rollout

Arm = Literal["live", "canary", "shadow"]


@dataclass(frozen=True)
class RoutingDecision:
    """What answers, and who is asked besides."""

    artifact_id: str
    arm: Arm
    shadow: str | None = None
    """An artifact that gets the same question, whose answer nobody sees."""


def choose(live: str, rollout: Rollout | None, conversation: str) -> RoutingDecision:
    """Equal for all requests of one conversation, as long as the rollout is the same.

    A larger percentage keeps the conversations that the candidate has already.
    """
    if rollout is None:
        return RoutingDecision(live, "live")
    if _share(f"{rollout.channel} {rollout.candidate} {conversation}") < rollout.canary_percent:
        return RoutingDecision(rollout.candidate, "canary")
    shadowed = random.random() * 100 < rollout.shadow_percent
    return RoutingDecision(live, "live", rollout.candidate if shadowed else None)


def _share(text: str) -> float:
    """A number from 0 to 100 that looks random and is not."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 * 100
