"""A gate's decision and the channel that it is about: whose policy holds, and what is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.errors import Usage
from flows.gates.gate import Decision
from flows.gates.policy import GatePolicy
from flows.gates.sources import GateInput
from registry import Registry


@dataclass(frozen=True)
class RecordedDecision:
    """A recorded gate decision about the artifact `candidate`."""

    id: str
    candidate: str
    decision: Decision

    @property
    def passed(self) -> bool:
        return self.decision.verdict == "pass"


def record(registry: Registry, policy: GatePolicy, case: GateInput, decision: Decision) -> RecordedDecision:
    """Write the decision down, signed: the policy as written, and in the evidence as it was applied."""
    assert case.candidate is not None, "a decision about plain directories is not recorded"
    decision_id = registry.gates.record(
        candidate=case.candidate,
        baseline=case.baseline,
        policy=policy.model_dump(mode="json"),
        verdict=decision.verdict,
        evidence=decision.model_dump(mode="json"),
    )
    return RecordedDecision(decision_id, case.candidate, decision)


def refuse_other_policy(registry: Registry, channel: str, policy: GatePolicy) -> None:
    """Raise `Usage` where the channel has another policy than `policy`: no decision under it would count."""
    current = registry.channels.policy(channel)
    if current is None or current.digest == policy.digest:
        return
    lines = list(differences(policy.model_dump(mode="json"), current.policy))
    raise Usage(
        f"channel {channel} has another policy than this one, so no decision under this one would move it "
        f"(set by {current.who}, {current.at:%Y-%m-%d}: {current.reason}):\n  "
        + "\n  ".join(lines)
        + f"\nuse the channel's policy (`tuneline channels policy {channel}` prints it), or change it: "
        f"tuneline channels policy {channel} --set FILE --reason WHY"
    )


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """`key.path: here …, channel …` of every value that differs."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
    elif _is_list(ours) and _is_list(theirs) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, path=f"{path}.{index}")
    elif ours != theirs:
        yield f"{path}: here {_short(ours)}, channel {_short(theirs)}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    return f"{len(value)} entries" if _is_list(value) else "none" if value is None else str(value)
