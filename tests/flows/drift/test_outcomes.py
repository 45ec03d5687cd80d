"""Drift of outcomes: what is kept of a channel's answers, before a promotion and since."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from flows import cli
from flows.drift.outcomes import DISLIKED, LENGTH, MEASURES, NOT_JSON, REFUSED, Observed, judge, refuses
from flows.errors import Usage
from registry import Registry, Waiver
from registry.feeds.traffic import Feedback, Receipt
from registry.schedules.schedules import checked
from tests.flows.evaluation_files import Lineage

CHANNEL = "team/prod"
ANSWER = '{"topic": "access"}'
ASKED = [{"role": "user", "content": "I cannot log in"}]
Command = Callable[..., tuple[int, Any, str]]


class Service:
    """A channel with a tenant that agreed to all, and answers that come one after the other."""

    def __init__(self, registry: Registry, answer: str = ANSWER) -> None:
        self.registry = registry
        self.made = Lineage(registry, [f"question {number}" for number in range(50)], answer)
        registry.feeds.add("tickets", [], "ops")
        registry.channels.move(CHANNEL, self.made.gguf.id, 0, waiver=Waiver("the first", "tests"))
        _, key, _ = registry.tenants.add("acme", CHANNEL, "ops")
        self.key = key.id
        self.consent = registry.consents.give("acme", "tickets", 1.0, 30, [], "ada")

    def answers(
        self, texts: Sequence[str], channel: str = CHANNEL, arm: Literal["live", "canary"] = "live"
    ) -> list[str]:
        """Keep answers; their requests."""
        requests = [uuid.UUID(int=random.getrandbits(128)).hex for _ in texts]
        model = self.made.gguf.id
        self.registry.traffic.keep([
            Receipt(request, self.key, self.consent, channel, model, arm, datetime.now(UTC), ASKED, text)
            for request, text in zip(requests, texts, strict=True)
        ])  # fmt: skip
        return requests

    def rated(self, thumbs: Sequence[str]) -> None:
        """Answers with feedback on each."""
        for request, thumb in zip(self.answers([ANSWER] * len(thumbs)), thumbs, strict=True):
            said = Feedback.model_validate({"request": request, "thumbs": thumb})
            self.registry.traffic.give(self.key, said)

    def promote(self) -> None:
        self.registry.channels.move(CHANNEL, self.made.merged.id, 1, waiver=Waiver("better", "tests"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Registry.open(tmp_path / "home") as registry:
        yield Service(registry)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["drift", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in words else out, err

    return run


def downs(count: int, every: int) -> list[str]:
    return ["down" if number % every == 0 else "up" for number in range(count)]


def test_worse_ratings_since_the_promotion_are_found_and_asked_about(
    service: Service, command: Command
) -> None:
    recipe = {"name": "r", "promote": {"channel": CHANNEL}}
    definition = checked(
        recipe_name="r.yaml", recipe=recipe, channels=(CHANNEL,), triggers=({"on": "drift"},)
    )
    service.registry.schedules.put("waits", definition, "ada", replace=False)
    service.rated(downs(30, 10))
    service.promote()
    service.rated(downs(10, 10))
    code, quiet, _ = command(CHANNEL, "--outcomes", "--json")
    assert code == 0
    assert quiet["verdict"] == "no drift shown"
    assert quiet["asked"] == []
    service.rated(["down"] * 25)
    code, shown, _ = command(CHANNEL, "--outcomes", "--json")
    assert code == 1
    assert shown["asked"] == ["waits"]
    measures = {measure["measure"]: measure for measure in shown["measures"]}
    assert set(measures) == set(MEASURES)
    assert measures[DISLIKED]["reference"] == 0.1
    assert measures[DISLIKED]["reference_rows"] == 30
    assert measures[DISLIKED]["rows"] == 35
    assert measures[NOT_JSON]["new"] == measures[REFUSED]["new"] == 0
    code, out, _ = command(CHANNEL, "--outcomes")
    assert code == 1
    assert "strongest in: disliked;" in out
    (occasion,) = service.registry.occasions.asked("waits")
    assert occasion.why == "outcomes of team/prod changed, strongest in: disliked"


def test_better_ratings_are_drift_and_ask_nobody(service: Service, command: Command) -> None:
    recipe = {"name": "r", "promote": {"channel": CHANNEL}}
    definition = checked(
        recipe_name="r.yaml", recipe=recipe, channels=(CHANNEL,), triggers=({"on": "drift"},)
    )
    service.registry.schedules.put("waits", definition, "ada", replace=False)
    service.rated(["down"] * 40)
    service.promote()
    service.rated(["up"] * 40)
    code, shown, _ = command(CHANNEL, "--outcomes", "--json")
    assert code == 1
    assert shown["asked"] == []


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ('{"topic": "access", "why": "it is said so in the first line"}', LENGTH),
        ("I'm sorry, but I cannot help with that.", REFUSED),
        ('{"topic": "acc', NOT_JSON),
    ],
)
def test_each_kind_of_answer_is_found(service: Service, command: Command, text: str, measure: str) -> None:
    service.answers([ANSWER] * 60)
    service.promote()
    service.answers([ANSWER] * 5 + [text] * 40)
    code, shown, _ = command(CHANNEL, "--outcomes", "--json")
    assert code == 1
    found = {m["measure"] for m in shown["measures"] if m["log10_e"] > 1.3}
    assert measure in found
    assert shown["left_out"] == {DISLIKED: {"before": 0, "since": 0}}
    assert shown["first_row"] > 5


def test_answers_that_are_not_meant_as_json_are_not_judged_as_such(tmp_path: Path, command: Command) -> None:
    with Registry.open(tmp_path / "home") as registry:
        service = Service(registry, answer="the topic is access")
        service.answers([ANSWER, "access"] * 15)
        service.promote()
        code, shown, _ = command(CHANNEL, "--outcomes", "--json")
    assert code == 0
    assert [measure["measure"] for measure in shown["measures"]] == [LENGTH, REFUSED]
    assert shown["rows"] == 0


def test_canaries_other_channels_and_what_was_forgotten_do_not_count(
    service: Service, command: Command
) -> None:
    service.answers([ANSWER] * 30)
    service.answers([ANSWER] * 30, channel="team/other")
    service.answers([ANSWER] * 30, arm="canary")
    service.promote()
    service.answers(["no"] * 30, arm="canary")
    code, quiet, _ = command(CHANNEL, "--outcomes", "--json")
    assert code == 0
    assert quiet["measures"][0]["reference_rows"] == 30
    service.registry.forgettings.forget("ada", tenant="acme")
    code, _, err = command(CHANNEL, "--outcomes")
    assert code == 3
    assert "team/prod: too little to compare: 0 answers and 0 ratings before" in err
    assert "tuneline tenants consent" in err
    assert len(err.strip().splitlines()) == 1


def test_the_moment_can_be_chosen(service: Service, command: Command) -> None:
    service.answers([ANSWER] * 30)
    moment = datetime.now(UTC).isoformat()
    service.answers(["no"] * 30)
    service.promote()
    assert command(CHANNEL, "--outcomes", "--json")[1]["rows"] == 0
    code, shown, _ = command(CHANNEL, "--outcomes", "--since", moment, "--json")
    assert code == 1
    assert shown["rows"] == 30
    ages_ago = command(CHANNEL, "--outcomes", "--since", "2020-01-01")
    assert ages_ago[0] == 3
    assert "0 answers and 0 ratings before 2020-01-01 00:00 UTC" in ages_ago[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((CHANNEL, "--outcomes", "--hidden-states"), "leave one of them out"),
        ((CHANNEL, "--new", "x.jsonl", "--since", "2026-01-01"), "--since is for --outcomes"),
        ((CHANNEL, "--outcomes", "--alpha", "2"), "--alpha 2 is not a risk"),
        (("team/none", "--outcomes"), "no channel 'team/none'"),
        (("0" * 12, "--outcomes"), "is not a channel"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    service: Service, command: Command, words: Sequence[str], message: str
) -> None:
    code, _, err = command(*words)
    assert code == 3
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [("--since", "7d", "--outcomes"), (), ("--outcomes", "--new", "a.jsonl")])
def test_wrong_arguments_are_refused(
    command: Command, capsys: pytest.CaptureFixture[str], words: Sequence[str]
) -> None:
    with pytest.raises(SystemExit, match="3"):
        command(CHANNEL, *words)
    assert "expected one as 2026-11-29" in capsys.readouterr().err or "7d" not in words


def test_a_later_look_goes_on_from_an_earlier_one() -> None:
    observed = list(stream(random.Random(5), before=60, since=120))
    early = judge(observed[:-80], MEASURES, START, 0.05).state
    whole = judge(reversed(observed), MEASURES, START, 0.05).state
    again = judge(observed[:-80], MEASURES, START, 0.05).state
    assert early == again
    assert whole.rows == early.rows + 80
    assert whole.highest_log10_e >= early.highest_log10_e


def test_while_nothing_changes_alarms_are_as_rare_as_stated() -> None:
    """Also of measures that have two values only, whose ties are broken by what the request is called."""
    alarms = 0
    for seed in range(100):
        observed = stream(random.Random(seed), before=60, since=120)
        alarms += judge(observed, MEASURES, START, 0.2).state.verdict == "drift"
    assert alarms <= 20


def test_a_moment_with_too_little_before_it_is_refused() -> None:
    with pytest.raises(Usage, match=r"19 answers and 0 ratings before .* expected at least 20"):
        judge(stream(random.Random(1), before=19, since=50, rated=0), MEASURES, START, 0.05)


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        ("I cannot help with that.", True),
        ("I\u2019m sorry, but that is beyond me.", True),
        ("As an AI, I have no opinion.", True),
        ("Unfortunately I am unable to open the file.", True),
        ("I'm sorry to hear that. Restart the router.", False),
        ("You cannot log in twice.", False),
        ("x " * 400 + "I cannot help with that.", False),
    ],
)
def test_refusals_are_told_by_their_beginning(answer: str, is_one: bool) -> None:
    assert refuses(answer) == is_one


START = datetime(2026, 3, 1, tzinfo=UTC)


def stream(draw: random.Random, before: int, since: int, rated: float = 0.5) -> Iterator[Observed]:
    """Answers and ratings of one distribution, on both sides of `START`."""
    for number in range(-before, since):
        at = START + timedelta(minutes=number)
        request = f"{draw.getrandbits(128):032x}"
        values = {
            LENGTH: float(draw.randint(1, 30)),
            REFUSED: float(draw.random() < 0.05),
            NOT_JSON: float(draw.random() < 0.1),
        }
        yield Observed(request, at, values)
        if draw.random() < rated:
            yield Observed(request, at, {DISLIKED: float(draw.random() < 0.3)})
