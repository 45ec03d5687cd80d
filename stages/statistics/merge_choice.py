"""Which weights an adapter is merged into: the decision, from paired figures of both merges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from registry.artifacts import Record
from stages.statistics.intervals import tango

MergeBase = Literal["16bit", "nf4"]
WORDS: dict[MergeBase, str] = {"16bit": "the 16-bit weights", "nf4": "the NF4 weights"}


class Estimate(Record):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class MergeEvidence(Record):
    """Both merges on the same chats, none of which was trained on."""

    chats: int = Field(ge=2)
    loss: dict[MergeBase, float] = Field(description="nats per token of the answers")
    loss_difference: Estimate = Field(description="16bit minus nf4, paired; intervals over chats")
    right: dict[MergeBase, float] = Field(description="share of answers that would be written greedily")
    gained: int = Field(ge=0, description="answers that only the 16-bit merge gets right")
    lost: int = Field(ge=0, description="answers that only the NF4 merge gets right")
    compared: int = Field(ge=0, description="answers that could be compared")
    kl: dict[MergeBase, float] = Field(description="mean KL(as trained ‖ merge), nats per token")


class MergeDecision(Record):
    chosen: MergeBase
    by: Literal["loss", "score", "nearness"]
    reason: str


def decide(evidence: MergeEvidence) -> MergeDecision:
    """Lower held-out loss where its paired interval excludes 0; else the better task score where Tango's 95 %
    interval does; else the merge that is nearer (KL) to the model that was trained."""
    loss = evidence.loss_difference
    figures = (
        f"held-out loss {evidence.loss['16bit']:.4g} in 16 bit against {evidence.loss['nf4']:.4g} in NF4 "
        f"(difference {loss.low:+.4f} to {loss.high:+.4f} with 95 % confidence, {evidence.chats} chats)"
    )
    if loss.low > 0 or loss.high < 0:
        chosen: MergeBase = "nf4" if loss.low > 0 else "16bit"
        return MergeDecision(chosen=chosen, by="loss", reason=f"folded into {WORDS[chosen]}: {figures}")
    score = (
        f"{evidence.gained} answers right only in 16 bit and {evidence.lost} only in NF4, "
        f"of {evidence.compared}"
    )
    if evidence.compared:
        bounds = tango(evidence.gained, evidence.lost, evidence.compared, alpha=0.025)
        if bounds.low > 0 or bounds.high < 0:
            chosen = "16bit" if bounds.low > 0 else "nf4"
            reason = f"folded into {WORDS[chosen]}: {score}; the loss does not decide: {figures}"
            return MergeDecision(chosen=chosen, by="score", reason=reason)
    chosen = "16bit" if evidence.kl["16bit"] < evidence.kl["nf4"] else "nf4"
    nearness = f"KL {evidence.kl['16bit']:.3g} in 16 bit, {evidence.kl['nf4']:.3g} in NF4"
    reason = (
        f"folded into {WORDS[chosen]}, nearer to the model that was trained ({nearness}); neither loss nor "
        f"score decides: {figures}; {score}"
    )
    return MergeDecision(chosen=chosen, by="nearness", reason=reason)
