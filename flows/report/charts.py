"""Charts as self-contained SVG: pure functions from numbers to a string."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from flows.report.svg import EM, WIDTH, linear_scale, picture_frame, stroke, svg_text, text_at

_NOTHING = 1e-90


@dataclass(frozen=True)
class Series:
    """A named line through (x, y) points; `dots` marks each point, without `line` only those are drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    line: bool = True


@dataclass(frozen=True)
class ErrorBar:
    """A value with the interval it is known to lie in, and the words beside it."""

    label: str
    value: float
    low: float
    high: float
    words: str


def nice_ticks(low: float, high: float, most: int = 6, smallest_step: float = 0.0) -> list[float]:
    """At most `most` + 1 evenly spaced round numbers (steps of 1, 2 or 5 × 10ᵏ) that cover [low, high].

    `most` >= 2. A range of (nearly) no width is widened first. Raises ValueError on NaN or infinity.
    """
    _finite(low, high)
    low, high = min(low, high), max(low, high)
    reach = max(abs(low), abs(high))
    if high - low <= max(1e-9 * reach, _NOTHING):
        pad = 0.1 * reach if reach > _NOTHING else 1.0
        low, high = low - pad, high + pad
    start = math.floor(math.log10((high - low) / most))
    for exponent, digit in ((exponent, digit) for exponent in count(start) for digit in (1, 2, 5)):
        first, last = math.floor(_over(low, digit, exponent)), math.ceil(_over(high, digit, exponent))
        if last - first <= most and digit * 10.0**exponent >= smallest_step:
            return [_multiple(n * digit, exponent) for n in range(first, last + 1)]
    raise AssertionError("steps grow without end, so one of them fits")


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels with just the digits that tell the ticks apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e7 or step < 1e-5:
        digits = max(1, math.ceil(math.log10(max(largest, step) / step)) + 1)
        return [f"{tick:.{digits}g}" for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-6))
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def line_chart(
    series: Sequence[Series], *, title: str, description: str, x_label: str, y_label: str, height: int = 250
) -> str:
    """Lines over a shared x axis, with a legend. Raises ValueError on a NaN or infinite number."""
    points = [point for plotted in series for point in plotted.points]
    if not points:
        return _empty(title, description, height)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    _finite(*xs, *ys)
    y_ticks = nice_ticks(min(ys), max(ys), 5)
    left, right, top, bottom = _left_margin(y_ticks), WIDTH - 12.0, 48.0, height - 40.0
    low, high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    x_of, y_of = linear_scale(low, high, left, right), linear_scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [_legend([plotted.name for plotted in series], left)]
    parts += [_y_axis(y_ticks, y_of, left, right, y_label, top), _x_axis(low, high, x_of, bottom, x_label)]
    for index, plotted in enumerate(series):
        drawn = [(x_of(x), y_of(y)) for x, y in plotted.points]
        if len(drawn) > 1 and plotted.line:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
            parts.append(f'<polyline class="line series-{index}" points="{line}"/>')
        if plotted.dots or len(drawn) == 1:
            for (x, y), (value_x, value_y) in zip(drawn, plotted.points, strict=True):
                words = f"{plotted.name}: {value_y:.4g} at {x_label} {value_x:g}"
                parts.append(_dot(index, x, y, 3.5, words))
    return _picture(title, description, height, parts)


def length_chart(edges: Sequence[float], counts: Sequence[float]) -> str:
    """How long the rows of a prepared dataset are: a histogram over the tokens of the rendered chat."""
    return histogram(
        edges,
        (rows := [int(count) for count in counts]),
        title="Length of the prepared rows",
        description=f"{sum(rows):,} rows by the length of the rendered chat",
        x_label="tokens",
        y_label="rows",
    )


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    height: int = 250,
) -> str:
    """Bars between `edges` (one more than `counts`, increasing). Raises ValueError where they do not fit."""
    _finite(*edges, *counts)
    if not counts and len(edges) < 2:
        return _empty(title, description, height)
    if len(edges) != len(counts) + 1 or any(b <= a for a, b in pairwise(edges)):
        raise ValueError(
            f"a histogram of {len(counts)} counts needs {len(counts) + 1} increasing edges, "
            f"found {list(edges)!r}"
        )
    y_ticks = nice_ticks(0, max(*counts, 1), 5, smallest_step=1)
    left, right, top, bottom = _left_margin(y_ticks), WIDTH - 12.0, 30.0, height - 40.0
    x_of, y_of = linear_scale(edges[0], edges[-1], left, right), linear_scale(0, y_ticks[-1], bottom, top)
    parts = [_y_axis(y_ticks, y_of, left, right, y_label, top)]
    parts.append(_x_axis(edges[0], edges[-1], x_of, bottom, x_label))
    for (start, end), number in zip(pairwise(edges), counts, strict=True):
        x, wide, y = x_of(start), x_of(end) - x_of(start), y_of(number)
        gap = min(2.0, wide / 4)
        tooltip = svg_text(f"{start:g} to {end:g} {x_label}: {number:,} {y_label}")
        parts.append(
            f'<rect class="bar series-0" x="{x + gap / 2:.2f}" y="{y:.2f}" width="{wide - gap:.2f}" '
            f'height="{bottom - y:.2f}"><title>{tooltip}</title></rect>'
        )
    return _picture(title, description, height, parts)


def interval_chart(
    rows: Sequence[ErrorBar], *, title: str, description: str, share: bool, x_label: str
) -> str:
    """One row per interval: the label and its words above, the value as a dot on its interval below.

    `share`: the axis is 0 to 1, written in per cent; otherwise it covers the numbers.
    Raises ValueError on a NaN or infinite number.
    """
    if not rows:
        return _empty(title, description, 120)
    edges = [edge for row in rows for edge in (row.low, row.value, row.high)]
    _finite(*edges)
    pitch, top = 40.0, 8.0
    bottom = top + pitch * len(rows) + 4
    ticks = nice_ticks(0, 1, 5) if share else nice_ticks(min(edges), max(edges), 5)
    x_of = linear_scale(ticks[0], ticks[-1], 10, WIDTH - 16.0)
    parts = [_x_axis(ticks[0], ticks[-1], x_of, bottom, x_label, grid_top=top, percent=share)]
    for index, row in enumerate(rows):
        base = top + pitch * index
        room = int((WIDTH - 30 - len(row.words) * EM) / EM)
        label = row.label if len(row.label) <= room else row.label[: max(1, room - 1)] + "…"
        parts += [
            text_at("label", 10, base + 14, label),
            text_at("value", WIDTH - 16, base + 14, row.words, "end"),
            stroke(f"whisker series-{index}", x_of(row.low), base + 26, x_of(row.high), base + 26),
            _dot(index, x_of(row.value), base + 26, 4.5, f"{row.label}: {row.words}"),
        ]
    return _picture(title, description, bottom + 38, parts)


def _picture(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return picture_frame(title, description, WIDTH, height, "".join(parts))


def _empty(title: str, description: str, height: float) -> str:
    return _picture(
        title, description, height, [text_at("tick", WIDTH / 2, height / 2, "nothing to draw", "middle")]
    )


def _dot(series: int, x: float, y: float, radius: float, words: str) -> str:
    return (
        f'<circle class="dot series-{series}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
        f"<title>{svg_text(words)}</title></circle>"
    )


def _finite(*numbers: float) -> None:
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"a chart needs finite numbers, found {number}; leave such rows out and say so")


def _multiple(factor: int, exponent: int) -> float:
    return factor * 10.0**exponent if exponent >= 0 else factor / 10.0**-exponent


def _over(value: float, digit: int, exponent: int) -> float:
    quotient = value / (digit * 10.0**exponent)
    nearest = round(quotient)
    # 0.3 / 0.1 is 2.9999…: a value on a tick must not cost another tick.
    return nearest if abs(quotient - nearest) <= 1e-9 * max(1.0, abs(nearest)) else quotient


def _left_margin(ticks: Sequence[float]) -> float:
    return 12 + EM * max(len(label) for label in tick_labels(ticks))


def _legend(names: Sequence[str], x: float) -> str:
    parts = []
    for index, name in enumerate(names):
        parts += [stroke(f"line series-{index}", x, 12, x + 16, 12), text_at("label", x + 21, 16, name)]
        x += 21 + EM * len(name) + 14
    return "".join(parts)


def _y_axis(
    ticks: Sequence[float], y_of: Callable[[float], float], left: float, right: float, label: str, top: float
) -> str:
    parts = [text_at("axis-label", left, top - 12, label)]
    for tick, words in zip(ticks, tick_labels(ticks), strict=True):
        y = y_of(tick)
        parts += [stroke("grid", left, y, right, y), text_at("tick", left - 6, y + 4, words, "end")]
    return "".join(parts)


def _x_axis(
    low: float,
    high: float,
    x_of: Callable[[float], float],
    y: float,
    label: str,
    grid_top: float | None = None,
    percent: bool = False,
) -> str:
    start, end = x_of(low), x_of(high)
    parts = [stroke("axis", start, y, end, y)]
    for x, middle, word in _x_labels(low, high, x_of, percent):
        if grid_top is not None:
            parts.append(stroke("grid", x, grid_top, x, y))
        parts.append(text_at("tick", middle, y + 16, word, "middle"))
    parts.append(text_at("axis-label", (start + end) / 2, y + 34, label, "middle"))
    return "".join(parts)


def _x_labels(
    low: float, high: float, x_of: Callable[[float], float], percent: bool
) -> list[tuple[float, float, str]]:
    """(x of the tick, x of its label's middle, label): as many as stand side by side within the picture."""
    labels: list[tuple[float, float, str]] = []
    for most in (7, 5, 4, 3, 2):
        ticks = [t for t in nice_ticks(low, high, most) if x_of(low) - 0.01 <= x_of(t) <= x_of(high) + 0.01]
        words = [f"{tick:.0%}" for tick in ticks] if percent else tick_labels(ticks)
        labels = []
        for tick, word in zip(ticks, words, strict=True):
            half = EM * len(word) / 2
            labels.append((x_of(tick), min(max(x_of(tick), half), WIDTH - half), word))
        if all(b[1] - a[1] >= EM * (len(a[2]) + len(b[2])) / 2 + 6 for a, b in pairwise(labels)):
            return labels
    return labels[:1]
