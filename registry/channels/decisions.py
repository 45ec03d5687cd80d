"""Gate decisions: policy × evidence → verdict, recorded once, signed, and never changed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import Connection, Row, insert, select

from registry import catalog, content, outbox
from registry.artifacts import Record, canonical, digest
from registry.channels.signing import Keys
from registry.db.engine import Database, now
from registry.db.tables import gate_decisions
from registry.errors import Corrupt, GateRequired, InvalidArtifact, NotFound

_PREFIX = re.compile(r"[0-9a-f]{6,64}")
Verdict = Literal["pass", "fail", "insufficient", "invalid"]
CANARY = "canary"
"""In a policy: what is asked of live traffic. In evidence: what was seen of it."""
AGAIN = "decided_again_after"
"""In the evidence of a decision that was recorded before: the id of the one in between."""


class GateDecision(Record):
    """What a gate said about `candidate` in comparison with `baseline`; its id is its content's digest."""

    id: str
    candidate: str
    baseline: str | None
    policy: dict[str, Any]
    verdict: Verdict
    evidence: dict[str, Any]
    created: datetime
    signer: str | None = None
    signature: str | None = None

    @property
    def content_digest(self) -> str:
        """sha256 of what was decided, which is the decision's id unless it was changed since."""
        covered = ("candidate", "baseline", "verdict", "policy", "evidence")
        return digest({field: getattr(self, field) for field in covered})

    @property
    def policy_digest(self) -> str:
        """sha256 of the canonical policy; a channel's policy has the same where it is the same."""
        return digest(self.policy)


class Gates:
    """The gate decisions of a registry."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys

    def record(
        self,
        candidate: str,
        baseline: str | None,
        policy: Mapping[str, Any],
        verdict: Verdict,
        evidence: Mapping[str, Any],
    ) -> str:
        """Write a decision down, signed, and return its id; it is the latest about its candidate then.

        The same decision again is the same id, or, where another was recorded in between, a new one whose
        evidence names that one (`AGAIN`). Raises NotFound for artifacts that are not here, InvalidArtifact
        for content that is not finite JSON.
        """
        if verdict not in get_args(Verdict):
            raise InvalidArtifact(f"verdict {verdict!r}: expected one of {', '.join(get_args(Verdict))}")
        decided = {"candidate": candidate, "baseline": baseline, "verdict": verdict}
        texts = {"policy": _text(policy), "evidence": _text(evidence)}
        with self._database.write() as connection:
            for artifact_id in (candidate, baseline):
                if artifact_id is not None:
                    catalog.existing(connection, artifact_id)
            about = select(gate_decisions).where(gate_decisions.c.candidate == candidate)
            rows = list(connection.execute(about.order_by(gate_decisions.c.sequence)))
            decision_id = _id(decided, texts)
            if rows and _as_first_decided(rows[-1]) == decision_id:
                return str(rows[-1].id)
            if any(row.id == decision_id for row in rows):
                texts["evidence"] = _text({**evidence, AGAIN: rows[-1].id})
                decision_id = _id(decided, texts)
            signer, signature = self._keys.sign(signed_content(decision_id))
            signed = {"signer": signer, "signature": signature}
            row = {"id": decision_id, **decided, **texts, **signed, "created": now()}
            connection.execute(insert(gate_decisions), row)
            outbox.put(connection, "gate", {"decision": decision_id, **decided})
        return decision_id

    def get(self, decision_id: str) -> GateDecision:
        """The decision of this id; raises NotFound."""
        with self._database.read() as connection:
            return _existing(connection, decision_id)

    def about(self, candidate: str) -> list[GateDecision]:
        """Every decision about this artifact, oldest first."""
        query = select(gate_decisions).where(gate_decisions.c.candidate == candidate)
        with self._database.read() as connection:
            return [_decision(row) for row in connection.execute(query.order_by(gate_decisions.c.sequence))]

    def resolve(self, ref: str) -> GateDecision:
        """The decision of an id or of the first 6 or more digits of one; raises NotFound."""
        matches = (gate_decisions.c.id >= ref) & (gate_decisions.c.id < ref + "g")
        with self._database.read() as connection:
            rows = list(connection.execute(select(gate_decisions).where(matches).limit(3)))
        if not _PREFIX.fullmatch(ref) or not rows:
            raise _unknown(ref)
        if len(rows) > 1:
            raise NotFound(f"{ref!r} is ambiguous: it begins {', '.join(r.id[:16] for r in rows)}, …")
        return _decision(rows[0])

    def problem(self, decision: GateDecision) -> str | None:
        """Why a decision is not to be believed (changed, unsigned, signed by a stranger), or None."""
        return _problem(decision, self._keys)

    def collected(self, artifact_id: str) -> str | None:
        """When the artifact's content was collected, or None while it is there."""
        with self._database.read() as connection:
            return content.collected(connection, [artifact_id]).get(artifact_id)

    def latest(self, candidate: str) -> GateDecision | None:
        """The decision recorded last about this artifact."""
        about = select(gate_decisions).where(gate_decisions.c.candidate == candidate)
        with self._database.read() as connection:
            row = connection.execute(about.order_by(gate_decisions.c.sequence.desc()).limit(1)).one_or_none()
        return None if row is None else _decision(row)


def _text(value: Mapping[str, Any]) -> str:
    try:
        return canonical(dict(value)).decode()
    except (ValueError, TypeError) as error:
        raise InvalidArtifact(f"a gate's policy and evidence must be finite JSON: {error}") from error


def _as_first_decided(row: Row[Any]) -> str:
    evidence = {key: value for key, value in json.loads(row.evidence).items() if key != AGAIN}
    decided = {"candidate": row.candidate, "baseline": row.baseline, "verdict": row.verdict}
    return _id(decided, {"policy": row.policy, "evidence": _text(evidence)})


def _id(decided: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    return digest({**decided, **{field: json.loads(text) for field, text in texts.items()}})


class Move(NamedTuple):
    """What a decision has to allow: that `artifact_id` takes the place of `current` under a policy."""

    refusal: str
    """How the message of a refusal begins."""
    artifact_id: str
    current: str | None
    policy: str | None
    """The digest of the channel's policy, if it has one."""


def require(connection: Connection, keys: Keys, decision_id: str | None, move: Move) -> GateDecision:
    """The decision, if it allows the move; raises GateRequired, NotFound, Corrupt for a changed decision."""
    if decision_id is None:
        raise GateRequired(
            f"{move.refusal}: it needs a passing gate decision, or a waiver with a reason and a name; "
            "run `tuneline gate`"
        )
    decision = _existing(connection, decision_id)
    _, artifact_id, current, policy = move
    cited = f"{move.refusal}: gate decision {decision_id[:12]}"
    if decision.verdict != "pass":
        raise GateRequired(f"{cited} says {decision.verdict}, expected pass")
    if decision.candidate != artifact_id:
        raise GateRequired(f"{cited} is about artifact {decision.candidate[:12]}")
    if current is not None and decision.baseline != current:
        raise GateRequired(
            f"{cited} compares it with {str(decision.baseline)[:12]}, but the channel has {current[:12]} "
            "now; run the gate again against that one"
        )
    if policy is not None and decision.policy_digest != policy:
        raise GateRequired(
            f"{cited} was made under the policy {decision.policy_digest[:12]}, but the channel's is "
            f"{policy[:12]}; run the gate again under the channel's policy"
        )
    if current is not None and decision.policy.get(CANARY) and CANARY not in decision.evidence:
        raise GateRequired(
            f"{cited} has no evidence from live traffic, which the channel's policy requires; start a "
            "canary: "
            "tuneline channels rollout CHANNEL CANDIDATE --canary PERCENT --reason WHY, and "
            "`tuneline channels judge` decides"
        )
    if problem := _problem(decision, keys):
        raise (Corrupt if decision.signer else GateRequired)(f"{cited} {problem}")
    return decision


def _problem(decision: GateDecision, keys: Keys) -> str | None:
    """Why a decision as it is read now is not the one that was signed, or None."""
    if decision.content_digest != decision.id:
        return "was changed after it was made: the digest of its content is not its id"
    return keys.problem(decision.signer, signed_content(decision.id), decision.signature)


def signed_content(decision_id: str) -> bytes:
    """What a signature covers: the id, which is the digest of all that was decided."""
    return f"tuneline gate decision {decision_id}".encode()


def _unknown(decision_id: str) -> NotFound:
    return NotFound(
        f"no gate decision {decision_id[:64]!r} in this registry; run `tuneline gate` to make one"
    )


def _existing(connection: Connection, decision_id: str) -> GateDecision:
    query = select(gate_decisions).where(gate_decisions.c.id == decision_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _unknown(decision_id)
    return _decision(row)


def _decision(row: Row[Any]) -> GateDecision:
    return GateDecision.of_row(
        row,
        policy=json.loads(row.policy),
        evidence=json.loads(row.evidence),
        created=datetime.fromisoformat(row.created),
    )
