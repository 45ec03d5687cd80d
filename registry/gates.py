"""Gate decisions: policy × evidence → verdict, recorded once and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Row, insert, select

from registry import catalog
from registry.artifacts import Record, canonical, digest
from registry.database import Database, now
from registry.errors import InvalidArtifact, NotFound
from registry.schema import gate_decisions

Verdict = Literal["pass", "fail", "insufficient", "invalid"]


class GateDecision(Record):
    """What a gate said about `candidate` in comparison with `baseline`; its id is its content's digest."""

    id: str
    candidate: str
    baseline: str | None
    policy: dict[str, Any]
    verdict: Verdict
    evidence: dict[str, Any]
    created: datetime


class Gates:
    """The gate decisions of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        candidate: str,
        baseline: str | None,
        policy: Mapping[str, Any],
        verdict: Verdict,
        evidence: Mapping[str, Any],
    ) -> str:
        """Write a decision down and return its id; the same decision again is the same id.

        Raises NotFound for artifacts that are not here, InvalidArtifact for content that is not finite JSON.
        """
        if verdict not in get_args(Verdict):
            raise InvalidArtifact(f"verdict {verdict!r}: expected one of {', '.join(get_args(Verdict))}")
        content = {"candidate": candidate, "baseline": baseline, "verdict": verdict}
        try:
            texts = {
                "policy": canonical(dict(policy)).decode(),
                "evidence": canonical(dict(evidence)).decode(),
            }
        except (ValueError, TypeError) as error:
            raise InvalidArtifact(f"a gate's policy and evidence must be finite JSON: {error}") from error
        decision_id = digest({**content, **{field: json.loads(text) for field, text in texts.items()}})
        with self._database.write() as connection:
            for artifact_id in (candidate, baseline):
                if artifact_id is not None:
                    catalog.existing(connection, artifact_id)
            same = select(gate_decisions.c.id).where(gate_decisions.c.id == decision_id)
            if connection.execute(same).first() is None:
                connection.execute(
                    insert(gate_decisions), {"id": decision_id, **content, **texts, "created": now()}
                )
        return decision_id

    def get(self, decision_id: str) -> GateDecision:
        """The decision of this id; raises NotFound."""
        with self._database.read() as connection:
            query = select(gate_decisions).where(gate_decisions.c.id == decision_id)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(
                f"no gate decision {decision_id[:64]!r} in this registry; run `tuneline gate` to make one"
            )
        return _decision(row)

    def about(self, candidate: str) -> list[GateDecision]:
        """Every decision about this artifact, oldest first."""
        query = select(gate_decisions).where(gate_decisions.c.candidate == candidate)
        with self._database.read() as connection:
            return [_decision(row) for row in connection.execute(query.order_by(gate_decisions.c.sequence))]

    def latest(self, candidate: str) -> GateDecision | None:
        """The decision recorded last about this artifact."""
        about = select(gate_decisions).where(gate_decisions.c.candidate == candidate)
        with self._database.read() as connection:
            row = connection.execute(about.order_by(gate_decisions.c.sequence.desc()).limit(1)).one_or_none()
        return None if row is None else _decision(row)


def _decision(row: Row[Any]) -> GateDecision:
    return GateDecision(
        id=row.id,
        candidate=row.candidate,
        baseline=row.baseline,
        policy=json.loads(row.policy),
        verdict=row.verdict,
        evidence=json.loads(row.evidence),
        created=datetime.fromisoformat(row.created),
    )
