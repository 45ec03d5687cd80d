"""What came of a channel's answers before a moment and since: feedback, refusals, length, JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from flows.drift.evidence import DriftDetector, DriftState, MeasureDrift, require_risk
from flows.drift.inputs import is_json
from flows.drift.measures import words
from flows.errors import Usage
from registry import Registry

FEWEST = 20
"""Answers or ratings before the moment, for a measure to be compared."""
LENGTH, REFUSED, NOT_JSON, DISLIKED = MEASURES = ("answer length", "refused", "not JSON", "disliked")
_BEGINNING = 300
"""Characters of an answer in which a refusal is looked for."""
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:(?:very |so |really )?sorry,? but|unable to|not able to|not allowed to)\b"
    r"|i (?:cannot|can(?:'t| not)|won't|will not|must not)"
    r" (?:help|assist|answer|provide|comply|discuss|do|give)\b"
    r"|as an ai\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Observed:
    """What one answer, or one piece of feedback, says: measure → number."""

    request: str
    at: datetime
    values: Mapping[str, float]


@dataclass(frozen=True)
class OutcomeDrift:
    """`left_out`: measure → (how many there were before the moment, since)."""

    state: DriftState
    left_out: Mapping[str, tuple[int, int]]

    @property
    def worse(self) -> bool:
        """Whether what changed most is not better now; of a length nobody knows what is better."""
        strongest: MeasureDrift = self.state.strongest
        return strongest.measure == LENGTH or strongest.new > strongest.reference


def compare(
    registry: Registry, channel: str, moment: datetime, alpha: float, json_answers: bool
) -> OutcomeDrift:
    """The channel's live answers, and feedback on them, from `moment` on, beside those before.

    `json_answers`: whether the channel was trained to answer in JSON. Raises `Usage` where too little was
    before the moment. Looked at again it gives the same and goes on, as long as the same is still kept.
    """
    asked = [measure for measure in MEASURES if measure != NOT_JSON or json_answers]
    try:
        return judge(_observed(registry, channel, json_answers), asked, moment, alpha)
    except Usage as error:
        raise Usage(f"{channel}: {error}") from None


def judge(observed: Iterable[Observed], asked: Sequence[str], moment: datetime, alpha: float) -> OutcomeDrift:
    """What is observed from `moment` on, in the order of its times, beside what was before."""
    require_risk(alpha)
    ordered = sorted(observed, key=lambda answer: (answer.at, answer.request))
    before = [answer for answer in ordered if answer.at < moment]
    since = ordered[len(before) :]
    references = {name: [answer.values[name] for answer in before if name in answer.values] for name in asked}
    names = [name for name in asked if len(references[name]) >= FEWEST]
    counts = {name: (len(references[name]), sum(name in answer.values for answer in since)) for name in asked}
    if not names:
        _refuse(moment, counts)
    detector = DriftDetector(names, [references[name] for name in names], alpha)
    for answer in since:
        shown = {name: value for name, value in answer.values.items() if name in names}
        if shown:
            detector.add((names.index(name), value, _lot(answer, name)) for name, value in shown.items())
    left_out = {name: counts[name] for name in asked if name not in names}
    return OutcomeDrift(detector.state, left_out)


def refuses(answer: str) -> bool:
    """Whether it begins as English refusals do."""
    return _REFUSAL.search(answer[:_BEGINNING].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None


def _observed(registry: Registry, channel: str, json_answers: bool) -> Iterator[Observed]:
    for answer in registry.traffic.answers(channel):
        values = {LENGTH: float(len(words(answer.text))), REFUSED: float(refuses(answer.text))}
        if json_answers:
            values[NOT_JSON] = float(not is_json(answer.text))
        yield Observed(answer.request, answer.at, values)
    for rating in registry.traffic.ratings(channel):
        yield Observed(rating.request, rating.at, {DISLIKED: float(rating.disliked)})


def _lot(answer: Observed, measure: str) -> float:
    """For ties: the same at each look, and nothing that the answer decides."""
    return int.from_bytes(hashlib.sha256(f"{measure} {answer.request}".encode()).digest()[:7]) / 2**56


def _refuse(moment: datetime, counts: Mapping[str, tuple[int, int]]) -> NoReturn:
    answers, ratings = counts[LENGTH][0], counts[DISLIKED][0]
    raise Usage(
        f"too little to compare: {answers} answers and {ratings} ratings before "
        f"{moment:%Y-%m-%d %H:%M} UTC, expected at least {FEWEST} of one of them; answers are kept of "
        "tenants that agreed (`tuneline tenants consent`), for as many days as they said"
    )
