"""A run's gate and its channel: whose policy a channel has after each verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from flows.candidate import Candidate
from flows.errors import Usage
from flows.gates.channel import RecordedDecision
from flows.gates.policy import GatePolicy
from flows.promote import judge, promote
from flows.run.stage_row import Form
from flows.run.step import Run
from registry import Artifact, Registry, Waiver
from registry.channels.channels import Channel
from tests.flows.evaluation_files import Lineage

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 20 + [0.0] * 80


@dataclass
class Unwatched:
    """A run as far as the gate knows it, without Prefect."""

    registry: Registry

    def task(self, stage: str, label: str, work: Callable[[], tuple[Any, Any]]) -> Any:
        return work()[0]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Registry.open(tmp_path / "home") as opened:
        yield cast(Run, Unwatched(opened))


def policy(**rule: Any) -> GatePolicy:
    claim = {"task": "heldout", "metric": "exact_match", "role": "improve", "against": "baseline"}
    return GatePolicy.model_validate({"tasks": [{**claim, "margin": 0.1, **rule}]})


def judged(run: Run, gate: GatePolicy, seen: Channel | None = None) -> tuple[RecordedDecision, Candidate]:
    made = Lineage(run.registry)

    def candidate(form: Form, model: Artifact, scores: list[float]) -> Candidate:
        return Candidate(form, form, model, made.evaluate(model, scores))

    untuned, merged = candidate("base", made.base, BAD), candidate("merged", made.merged, GOOD)
    file = candidate("quantized", made.gguf, GOOD)
    live = None if seen is None else candidate("quantized", run.registry.get(seen.artifact_id), BAD)
    return judge(run, gate, "team/prod", file, untuned, merged, live), file


@pytest.mark.parametrize(
    ("typo", "verdict"),
    [({"task": "heldot"}, "invalid"), ({"metric": "rouge"}, "invalid"), ({"margin": 0.9}, "fail"),
     ({"margin": 0.7}, "insufficient")],
)  # fmt: skip
def test_a_policy_is_taken_over_by_what_moves_the_channel_and_by_nothing_before(
    run: Run, typo: dict[str, Any], verdict: str
) -> None:
    refused, _ = judged(run, policy(**typo))
    assert refused.decision.verdict == verdict
    assert run.registry.channels.policy("team/prod") is None
    corrected = policy()
    passed, offer = judged(run, corrected)
    assert passed.passed
    assert run.registry.channels.policy("team/prod") is None, "a decision alone moves nothing"
    moved = promote(run, "team/prod", offer, passed, None)
    assert moved is not None
    assert moved.generation == 1
    kept = run.registry.channels.policy("team/prod")
    assert kept is not None
    assert kept.digest == corrected.digest
    with pytest.raises(Usage, match="channel team/prod has another policy than this one"):
        judged(run, policy(margin=0.2))


def test_a_channel_that_somebody_else_moved_is_judged_again(run: Run) -> None:
    """The verdict is about what was live when the gate looked; `None` makes the run look again."""
    channels, other = run.registry.channels, Lineage(run.registry).quantized("Q8_0")
    verdict, offer = judged(run, policy())
    assert verdict.passed
    channels.move("team/prod", other.id, 0, waiver=Waiver("faster", "bob"))
    assert promote(run, "team/prod", offer, verdict, None) is None
    now = channels.get("team/prod")
    assert now is not None
    assert now.artifact_id == other.id
    again, offer = judged(run, policy(), now)
    assert run.registry.gates.get(again.id).baseline == other.id, "against what is live now"
    moved = promote(run, "team/prod", offer, again, now)
    assert moved is not None
    assert (moved.generation, moved.artifact_id) == (2, offer.model.id)
    assert promote(run, "team/prod", offer, again, moved) == moved, "it is there already"
    channels.rollback("team/prod", "a trial", "bob")
    assert promote(run, "team/prod", offer, again, moved) is None, "it was there, and is not any more"
