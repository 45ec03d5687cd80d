"""Canaries judged from what gateways count: promoted, stopped, given up, and each with a signed decision."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.canaries.judge import WHO, Judge
from flows.canaries.start import start
from flows.gates.policy import GatePolicy
from flows.stack.programs import JUDGE_ALIVE
from registry import Artifact, Registry, Waiver
from registry.errors import GateRequired
from registry.tenancy.outcomes import Outcome
from tests.flows.evaluation_files import Lineage
from tests.seconds import seconds

RULE = {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1}
CHANNEL = "team/prod"


@dataclass
class Trial:
    """A channel with a policy that asks for a canary, and a candidate that its gate let pass."""

    registry: Registry
    live: Artifact
    candidate: Artifact
    policy: GatePolicy
    gate: str

    def start(self) -> None:
        self.registry.rollouts.start(CHANNEL, self.candidate.id, 10, 0, "tests", "to see")

    def count(self, live: tuple[int, int], canary: tuple[int, int], **more: Any) -> None:
        """As a gateway writes it every two seconds: requests and failures of each side."""
        generation = self.registry.channels.get(CHANNEL).generation  # type: ignore[union-attr]
        sides = (("live", self.live, live), ("canary", self.candidate, canary))
        self.registry.outcomes.add(
            [
                Outcome(
                    channel=CHANNEL, generation=generation, artifact_id=artifact.id, arm=arm,
                    minute=datetime.now(UTC), requests=requests, failed=failed, **more,
                )
                for arm, artifact, (requests, failed) in sides
            ]  # type: ignore[arg-type]
        )  # fmt: skip

    def until_decided(self, rate: float, judge: Judge, looks: int = 200) -> list[Any]:
        """Traffic of 1 % failures, of the candidate `rate`, 20 answers of it at a time."""
        draw = random.Random(3)
        for _ in range(looks):
            counts = [sum(draw.random() < share for _ in range(n)) for n, share in ((180, 0.01), (20, rate))]
            self.count((180, counts[0]), (20, counts[1]))
            if judged := judge.round():
                return judged
        return []


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    with Registry.open(tmp_path / "home") as registry:

        def make(**canary: Any) -> Trial:
            made = Lineage(registry)
            live, candidate = made.gguf, made.quantized("Q8_0")
            policy = GatePolicy.model_validate({"tasks": [RULE], "canary": canary})
            document = policy.model_dump(mode="json")
            registry.channels.set_policy(CHANNEL, document, "tests", "a trial")
            registry.channels.move(CHANNEL, live.id, 0, waiver=Waiver("the first", "tests"))
            gate = registry.gates.record(candidate.id, live.id, document, "pass", {"rules": []})
            return Trial(registry, live, candidate, policy, gate)

        yield make


def test_a_gates_pass_alone_moves_no_channel_whose_policy_asks_for_a_canary(
    trial: Callable[..., Trial],
) -> None:
    case = trial()
    with pytest.raises(GateRequired, match="has no evidence from live traffic"):
        case.registry.channels.move(CHANNEL, case.candidate.id, 1, case.gate, who="tests")


def test_a_canary_that_is_as_good_is_promoted_by_a_signed_decision(trial: Callable[..., Trial]) -> None:
    case = trial()
    case.start()
    (judged,) = case.until_decided(0.01, Judge(case.registry))
    channel = case.registry.channels.get(CHANNEL)
    assert channel is not None
    assert (channel.artifact_id, channel.generation) == (case.candidate.id, 2)
    event = case.registry.channels.history(CHANNEL)[-1]
    assert (event.decision_id, event.who) == (judged.decision, WHO)
    decision = case.registry.gates.get(judged.decision)
    assert decision.verdict == "pass"
    assert case.registry.gates.problem(decision) is None
    seen = decision.evidence["canary"]
    assert (seen["ending"], seen["after_decision"]) == ("safe", case.gate)
    (errors,) = seen["guardrails"]
    assert errors["log10_e_safe"] >= 1.301
    assert errors["low"] <= 0 <= errors["high"] <= 0.03
    assert case.registry.rollouts.current(CHANNEL) is None


def test_harm_stops_the_canary_and_it_is_not_begun_again(trial: Callable[..., Trial]) -> None:
    case = trial()
    case.start()
    (judged,) = case.until_decided(0.3, Judge(case.registry))
    assert judged.ending == "harm"
    assert judged.evidence.requests <= 100
    assert case.registry.rollouts.current(CHANNEL) is None
    channel = case.registry.channels.get(CHANNEL)
    assert channel is not None
    assert channel.artifact_id == case.live.id
    last = case.registry.rollouts.history(CHANNEL)[-1]
    assert (last.action, last.who) == ("stop", WHO)
    assert "shown to do harm" in last.reason
    assert judged.decision[:12] in last.reason
    assert case.registry.gates.get(judged.decision).verdict == "fail"
    assert start(case.registry, channel, case.candidate.id, case.policy, case.gate)[0] == "refused"
    case.registry.rollouts.start(CHANNEL, case.candidate.id, 5, 0, "tests", "once more, by hand")
    again = Judge(case.registry)
    assert not again.round()
    evidence = again.evidence(CHANNEL)
    assert evidence is not None
    assert evidence.requests == 0, "what the earlier canary counted within this minute is not this one's"


@pytest.mark.parametrize(
    ("guardrail", "counts"), [("not_json", ("checked", "not_json")), ("disliked", ("rated", "disliked"))]
)
@pytest.mark.parametrize(("worse", "ending"), [(6, "harm"), (0, "safe")])
def test_form_and_feedback_are_judged_where_the_policy_asks(
    trial: Callable[..., Trial], guardrail: str, counts: tuple[str, str], worse: int, ending: str
) -> None:
    case = trial(**{guardrail: 0.1}, errors=0.3)
    case.start()
    judge, items, bad = Judge(case.registry), *counts
    for _ in range(100):
        case.count((180, 1), (20, 0))
        rows = [row for _, row in case.registry.outcomes.added(CHANNEL, 1)][-2:]
        more = [{items: 90, bad: 1}, {items: 10, bad: worse}]
        case.registry.outcomes.add([row.model_copy(update=one) for row, one in zip(rows, more, strict=True)])
        if judged := judge.round():
            break
    (one,) = judged
    assert one.ending == ending
    rail = one.evidence.guardrails[1]
    assert rail.guardrail == guardrail.replace("_json", " JSON")
    assert rail.canary == one.evidence.requests / 4 > 0
    assert f"{rail.guardrail}: {rail.canary_bad} of {rail.canary:,} of the candidate's" in one.sentence


def test_ratings_of_answers_from_before_the_canary_are_left_out(trial: Callable[..., Trial]) -> None:
    """Of the live artifact too: who corrects answers after days would make it look worse than the other."""
    case = trial(disliked=0.1)
    case.start()
    case.count((90, 1), (10, 0), rated=10, disliked=2)
    earlier = {"requests": 0, "failed": 0, "minute": datetime.now(UTC) - timedelta(minutes=10)}
    rows = [row.model_copy(update=earlier) for _, row in case.registry.outcomes.added(CHANNEL, 1)]
    judge = Judge(case.registry)
    assert judge.evidence(CHANNEL) is not None
    case.registry.outcomes.add([row.model_copy(update={"rated": 50, "disliked": 50}) for row in rows])
    case.count((90, 1), (10, 0))
    evidence = judge.evidence(CHANNEL)
    assert evidence is not None
    disliked = evidence.guardrails[1]
    assert (disliked.live, disliked.live_bad, disliked.canary, disliked.canary_bad) == (10, 2, 10, 2)


def test_what_nobody_rated_is_not_shown_to_be_liked(trial: Callable[..., Trial]) -> None:
    case = trial(disliked=0.1, max_requests=400)
    case.start()
    (judged,) = case.until_decided(0.01, Judge(case.registry))
    assert judged.ending == "requests"
    assert "disliked: 0 of 0 of the candidate's" in judged.sentence


def test_a_budget_of_requests_gives_it_up(trial: Callable[..., Trial]) -> None:
    case = trial(max_requests=100)
    case.start()
    (judged,) = case.until_decided(0.02, Judge(case.registry))
    assert judged.ending == "requests"
    assert 100 <= judged.evidence.requests <= 140
    assert case.registry.gates.get(judged.decision).verdict == "insufficient"
    assert case.registry.rollouts.current(CHANNEL) is None


def test_time_is_a_budget_too(trial: Callable[..., Trial]) -> None:
    case = trial(max_hours=1e-9)
    case.start()
    (judged,) = Judge(case.registry).round()
    assert (judged.ending, judged.evidence.requests) == ("hours", 0)
    assert "its time is over" in case.registry.rollouts.history(CHANNEL)[-1].reason


def test_a_judge_that_begins_anew_comes_to_the_same(trial: Callable[..., Trial]) -> None:
    case = trial(slow={"over_ms": 100, "margin": 0.2}, cut_off=0.2, alpha=1e-6)
    case.start()
    steady, draw = Judge(case.registry), random.Random(1)
    for _ in range(12):
        times = [draw.uniform(10, 120) for _ in range(20)]
        case.count((40, 1), (4, 0), latencies_ms=times)
        assert not steady.round()
    here, anew = steady.evidence(CHANNEL), Judge(case.registry).evidence(CHANNEL)
    assert here is not None
    assert anew is not None
    assert [rail.guardrail for rail in here.guardrails] == ["errors", "cut off", "slow"]
    assert here.guardrails == anew.guardrails
    slow = here.guardrails[2]
    assert 0 < slow.canary_bad < slow.canary == 5 * here.requests


def test_a_run_begins_one_canary_at_a_time_under_its_policy(trial: Callable[..., Trial]) -> None:
    case = trial(percent=25)
    channel = case.registry.channels.get(CHANNEL)
    assert channel is not None
    of = (case.candidate.id, case.policy, case.gate)
    assert start(case.registry, channel, *of) == ("started", "canary of 25 % started")
    assert case.registry.rollouts.current(CHANNEL).canary_percent == 25  # type: ignore[union-attr]
    assert start(case.registry, channel, *of)[0] == "under way"
    other = Lineage(case.registry).quantized("Q6_K")
    state, note = start(case.registry, channel, other.id, case.policy, case.gate)
    assert (state, case.candidate.id[:12] in note) == ("another", True)
    case.registry.channels.move(CHANNEL, other.id, 1, waiver=Waiver("meanwhile", "bob"))
    assert start(case.registry, channel, *of)[0] == "moved"
    assert case.registry.rollouts.current(CHANNEL) is None


def test_of_two_runs_that_begin_a_canary_at_once_the_second_leaves_the_first_alone(
    trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = trial()
    channel = case.registry.channels.get(CHANNEL)
    assert channel is not None
    case.start()
    monkeypatch.setattr(type(case.registry.rollouts), "current", lambda *_: None)  # it looked just before
    other = Lineage(case.registry).quantized("Q6_K")
    assert start(case.registry, channel, case.candidate.id, case.policy, case.gate)[0] == "under way"
    state, note = start(case.registry, channel, other.id, case.policy, case.gate)
    assert (state, case.candidate.id[:12] in note) == ("another", True)
    assert len(case.registry.rollouts.history(CHANNEL)) == 1


def test_two_judges_decide_once(trial: Callable[..., Trial]) -> None:
    case = trial()
    case.start()
    first, second = Judge(case.registry), Judge(case.registry)
    case.until_decided(0.01, first)
    assert not second.round()
    assert [event.action for event in case.registry.channels.history(CHANNEL)] == ["move", "move"]


def test_a_candidate_that_no_gate_let_pass_is_stopped_when_it_is_decided(trial: Callable[..., Trial]) -> None:
    case = trial()
    other = Lineage(case.registry).quantized("Q6_K")
    case.candidate = other
    case.start()
    (judged,) = case.until_decided(0.01, Judge(case.registry))
    assert (judged.ending, judged.decision) == ("safe", None)
    assert "no valid gate decision" in case.registry.rollouts.history(CHANNEL)[-1].reason
    channel = case.registry.channels.get(CHANNEL)
    assert channel is not None
    assert channel.artifact_id == case.live.id


class Killed(BaseException):
    """As the process ends between two lines."""


def decisions(case: Trial) -> list[str]:
    """Of canaries about the candidate."""
    about = case.registry.gates.about(case.candidate.id)
    return [decision.id for decision in about if "canary" in decision.evidence]


def test_a_decision_that_a_kill_left_undone_is_carried_out_and_not_made_again(
    trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = trial()
    case.start()

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(case.registry.channels, "move", killed)
        with pytest.raises(Killed):
            case.until_decided(0.01, Judge(case.registry))
    left = decisions(case)
    assert len(left) == 1
    case.count((180, 2), (20, 0))
    (judged,) = Judge(case.registry).round()
    assert decisions(case) == left
    assert case.registry.channels.history(CHANNEL)[-1].decision_id == judged.decision == left[0]


def test_a_move_that_is_refused_again_and_again_makes_one_decision_and_one_line(
    trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = trial()
    case.start()
    judge = Judge(case.registry)

    def refused(*_: Any, **__: Any) -> None:
        raise GateRequired("its files are gone")

    with monkeypatch.context() as patch:
        patch.setattr(case.registry.channels, "move", refused)
        assert not case.until_decided(0.01, judge, looks=60)
    assert len(decisions(case)) == 1
    assert [record.message for record in caplog.records if "was not judged" in record.message] == [
        f"the canary of {CHANNEL} was not judged: its files are gone"
    ]
    assert [judged.ending for judged in judge.round()] == ["safe"]


def test_a_candidate_that_the_gate_lets_pass_no_longer_is_stopped(trial: Callable[..., Trial]) -> None:
    case = trial()
    case.start()
    document = case.policy.model_dump(mode="json")
    case.registry.gates.record(case.candidate.id, case.live.id, document, "fail", {"rules": [{"late": 1}]})
    (judged,) = case.until_decided(0.01, Judge(case.registry))
    assert (judged.ending, judged.decision) == ("safe", None)
    assert "no valid gate decision" in case.registry.rollouts.history(CHANNEL)[-1].reason
    assert case.registry.channels.get(CHANNEL).artifact_id == case.live.id  # type: ignore[union-attr]


def test_harm_that_nobody_looked_at_in_time_is_harm_still(trial: Callable[..., Trial]) -> None:
    """A judge that was away comes to what one that was there would have."""
    case = trial()
    case.start()
    for number in range(150):
        case.count((180, 2), (20, 8 if number < 3 else 0))
    (judged,) = Judge(case.registry).round()
    assert judged.ending == "harm"
    assert judged.evidence.requests <= 60


def test_answers_of_before_the_canary_teach_the_live_rate_only(trial: Callable[..., Trial]) -> None:
    case = trial()
    minute = datetime.now(UTC) - timedelta(minutes=10)
    rows = [
        Outcome(
            channel=CHANNEL,
            generation=1,
            artifact_id=artifact.id,
            arm=arm,
            minute=minute,
            requests=400,
            failed=4,
        )
        for arm, artifact in (("live", case.live), ("canary", case.candidate))
    ]  # type: ignore[arg-type]
    case.registry.outcomes.add(rows)
    case.start()
    case.count((90, 1), (10, 0))
    evidence = Judge(case.registry).evidence(CHANNEL)
    assert evidence is not None
    (errors,) = evidence.guardrails
    assert (errors.live, errors.canary) == (490, 10)


def test_a_canary_without_form_and_feedback_has_the_digest_that_it_had_before_there_were_any() -> None:
    written = GatePolicy.model_validate({"tasks": [RULE], "canary": {}}).model_dump(mode="json")["canary"]
    assert {"not_json", "disliked"} & set(written) == set()


def test_a_policy_without_a_canary_has_the_digest_that_it_had_before_there_were_any() -> None:
    policy = GatePolicy.model_validate({"tasks": [RULE]})
    assert "canary" not in policy.model_dump(mode="json")
    assert "canary" in GatePolicy.model_validate({"tasks": [RULE], "canary": {}}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("percent", 0), ("percent", 100), ("errors", 0), ("errors", 1), ("alpha", 0.5), ("max_requests", 1)],
)
def test_impossible_policies_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        GatePolicy.model_validate({"tasks": [RULE], "canary": {key: value}})


def test_the_commands_say_what_is_known_and_what_was_decided(
    trial: Callable[..., Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    case = trial()
    assert cli.main(["channels", "canary", CHANNEL]) == 3
    assert "has no canary; start one" in capsys.readouterr().err
    case.start()
    for _ in range(4):
        case.count((180, 2), (20, 8))
    assert cli.main(["channels", "canary", CHANNEL]) == 0
    out = capsys.readouterr().out
    assert "16 of 40" in out, "what comes after harm was shown changes nothing"
    assert "harm is shown" in out
    assert "does not ask for it: cut off, slow, not JSON, disliked" in out
    assert cli.main(["channels", "judge", CHANNEL, "--once", "--json"]) == 0
    alive = tmp_path / "home" / JUDGE_ALIVE
    assert not alive.exists(), "who looks at one channel does not say that all are looked at"
    (judged,) = json.loads(capsys.readouterr().out)
    assert (judged["channel"], judged["ending"]) == (CHANNEL, "harm")
    assert cli.main(["channels", "judge", "--once"]) == 0
    assert "nothing could be decided yet" in capsys.readouterr().out
    assert not alive.exists(), "nor does who looks once and ends"

    def end_once_it_lives() -> None:
        limit = time.monotonic() + seconds(30)
        while not alive.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end_once_it_lives)
    thread.start()
    assert cli.main(["channels", "judge"]) == 0
    thread.join()
    assert alive.exists()
    assert cli.main(["channels", "canary", "no-channel"]) == 3


def test_evidence_too_large_for_a_number_is_shown(
    trial: Callable[..., Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    case = trial()
    case.start()
    case.count((180, 2), (20, 0))
    case.count((18_000, 180), (2000, 2000))
    assert cli.main(["channels", "canary", CHANNEL]) == 0
    assert re.search(r" 1e\d{3,} ", capsys.readouterr().out)
