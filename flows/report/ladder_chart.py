"""The ladder as a picture: per rung the KL to its parent and the score, both with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flows.ladder.model import Figure, Ladder, Rung
from flows.report.charts import nice_ticks
from flows.report.svg import WIDTH, linear_scale, picture_frame, stroke, svg_text, text_at

PITCH, TOP = 62.0, 24.0
KL, SCORE = (20.0, 200.0), (238.0, 378.0)
"""Left and right edge of each column."""
MOST_DECADES = 6
"""Labels of powers of ten that fit side by side under the first column."""
FLOOR = 1e-6
"""Nats per token; below this two models are the same but for rounding."""


def ladder_chart(ladder: Ladder) -> str:
    """An SVG picture; a rung with a finding is marked with a cross and in words, not by colour alone."""
    bottom = TOP + PITCH * len(ladder.rungs)
    kls = [figure for rung in ladder.rungs if (figure := rung.figures.get("kl_mean"))]
    lowest = min((max(FLOOR, figure.low) for figure in kls), default=FLOOR)
    highest = max((max(FLOOR, figure.high) for figure in kls), default=1.0)
    decades = range(math.floor(math.log10(lowest)), max(math.ceil(math.log10(highest)), -2) + 1)
    kl_of = _log_scale(decades.start, decades[-1], *KL)
    low, high = _score_range([rung.score for rung in ladder.rungs if rung.score])
    score_of = linear_scale(low, high, *SCORE)
    parts = [
        text_at("axis-label", KL[0], 12, "KL to the form before it"),
        text_at("axis-label", SCORE[0], 12, _score_label(ladder.rungs)),
        text_at("axis-label", sum(KL) / 2, bottom + 32, "nats per token", "middle"),
    ]
    shown = decades[:: math.ceil(len(decades) / MOST_DECADES)]
    for decade in shown:
        parts.append(stroke("grid", kl_of(10.0**decade), TOP, kl_of(10.0**decade), bottom))
        parts.append(text_at("tick", kl_of(10.0**decade), bottom + 16, _power(decade), "middle"))
    for tick in (tick for tick in nice_ticks(low, high, 4) if low <= tick <= high):
        text = f"{tick:.0%}" if high <= 1 else f"{tick:g}"
        parts.append(stroke("grid", score_of(tick), TOP, score_of(tick), bottom))
        parts.append(text_at("tick", score_of(tick), bottom + 16, text, "middle"))
    for index, rung in enumerate(ladder.rungs):
        parts += _row(rung, index, TOP + PITCH * index, kl_of, score_of)
    description = "; ".join(_words(rung) for rung in ladder.rungs) + ". " + ladder.sentence
    return picture_frame("Fidelity ladder", description, WIDTH, bottom + 40, "".join(parts))


def _row(
    rung: Rung, index: int, y: float, kl_of: Callable[[float], float], score_of: Callable[[float], float]
) -> list[str]:
    note = "✕ breaks here" if rung.findings else (f"from {rung.parent}" if rung.parent else "the start")
    parts = [
        stroke("grid", 0, y, WIDTH, y),
        text_at("label", 4, y + 16, _cut(rung.label, 24)),
        text_at("broken" if rung.findings else "tick", WIDTH - 4, y + 16, _cut(note, 28), "end"),
    ]
    if (kl := rung.figures.get("kl_mean")) is not None:
        value = f"{kl.value:.2g}" if kl.value >= FLOOR else "same"
        parts += _mark(index, kl, kl_of, y + 48, f"{rung.label}: KL {value}", FLOOR)
        parts.append(_value(kl_of(max(kl.value, FLOOR)), KL, y + 38, value))
    elif rung.kind == "endpoint" and rung.compared and rung.changed is not None:
        changed = f"{rung.changed} of {rung.compared} answers changed"
        parts.append(text_at("value", KL[0], y + 38, changed))
    if (score := rung.score) is not None:
        value = f"{score.value:.1%}" if 0 <= score.low <= score.high <= 1 else f"{score.value:.3g}"
        parts += _mark(index, score, score_of, y + 48, f"{rung.label}: {rung.metric} {value}")
        parts.append(_value(score_of(score.value), SCORE, y + 38, value))
    return parts


def _value(x: float, column: tuple[float, float], y: float, words: str) -> str:
    """`words` above their dot, within the column."""
    return text_at("value", min(max(x, column[0] + 14), column[1] - 14), y, words, "middle")


def _power(decade: int) -> str:
    """A power of ten as short as it can be read."""
    if -3 <= decade <= 2:
        return f"{10.0**decade:g}"
    return "10" + str(decade).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _mark(
    index: int, figure: Figure, x_of: Callable[[float], float], y: float, words: str, floor: float = -math.inf
) -> list[str]:
    low, value, high = (x_of(max(edge, floor)) for edge in (figure.low, figure.value, figure.high))
    series = f"series-{index % 8}"
    dot = f'<circle class="dot {series}" cx="{value:.1f}" cy="{y:.1f}" r="4.5">'
    return [
        stroke(f"whisker {series}", low, y, high, y),
        f"{dot}<title>{svg_text(words)}</title></circle>",
    ]


def _words(rung: Rung) -> str:
    parts = [rung.label]
    if (kl := rung.figures.get("kl_mean")) is not None:
        parts.append(f"KL {kl.value:.3g} ({kl.low:.3g} to {kl.high:.3g}) to {rung.parent}")
    if rung.score is not None:
        parts.append(f"{rung.metric} {rung.score.value:.3g} ({rung.score.low:.3g} to {rung.score.high:.3g})")
    return ", ".join(parts)


def _score_label(rungs: Sequence[Rung]) -> str:
    metric = next((rung.metric for rung in rungs if rung.metric), "score")
    return _cut(metric, 21)


def _score_range(scores: Sequence[Figure]) -> tuple[float, float]:
    low, high = min((s.low for s in scores), default=0.0), max((s.high for s in scores), default=1.0)
    if 0 <= low <= high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low - 1, high + 1)


def _log_scale(low: int, high: int, start: float, end: float) -> Callable[[float], float]:
    linear = linear_scale(low, max(high, low + 1), start, end)
    return lambda value: linear(math.log10(max(value, 10.0**low)))
