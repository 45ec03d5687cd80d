"""A gate as a forest plot: each rule's difference with its interval, and the line that it has to clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flows.formatting import plain
from flows.report.charts import nice_ticks, tick_labels
from flows.report.svg import EM, WIDTH, linear_scale, picture_frame, stroke, svg_text, text_at

_LEFT, _RIGHT = 10.0, WIDTH - 10.0
_PITCH, _TOP = 70.0, 6.0

Rule = Mapping[str, Any]


def forest_plots(rules: Sequence[Rule]) -> list[str]:
    """SVG pictures of the rules of a decision that have an interval: shares together, others one by one.

    A rule is a `RuleResult` as JSON. Colours are CSS classes (`verdict-pass`, `zero`, …) of the page.
    Decisions of older versions have no thresholds and give no picture.
    """
    drawable = [
        rule
        for rule in rules
        if rule.get("kind", "task") == "task"
        and all(rule.get(key) is not None for key in ("effect", "low", "high", "threshold"))
    ]
    shares = [rule for rule in drawable if rule.get("method") in {"tango", "tango-clustered"}]
    others = [rule for rule in drawable if rule not in shares]
    plots = [_plot(shares, 100.0, "difference in points (of 100 items)")] if shares else []
    return plots + [_plot([rule], 1.0, f"difference in {_metric(rule)}") for rule in others]


def _plot(rules: Sequence[Rule], scale: float, x_label: str) -> str:
    edges = [scale * rule[key] for rule in rules for key in ("low", "high", "threshold", "effect")]
    ticks = nice_ticks(min(0.0, *edges), max(0.0, *edges), 6)
    bottom = _TOP + _PITCH * len(rules) + 4
    x_of = linear_scale(ticks[0], ticks[-1], _LEFT + 8, _RIGHT - 8)
    parts = [stroke("axis", x_of(ticks[0]), bottom, x_of(ticks[-1]), bottom)]
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        parts.append(stroke("zero" if tick == 0 else "grid", x_of(tick), _TOP, x_of(tick), bottom))
        parts.append(text_at("tick", x_of(tick), bottom + 16, text, "middle"))
    parts.append(text_at("axis-label", (_LEFT + _RIGHT) / 2, bottom + 34, x_label, "middle"))
    for index, rule in enumerate(rules):
        parts.append(_row(rule, scale, x_of, _TOP + _PITCH * index))
    text = "; ".join(f"{rule['rule']}: {_figures(rule, scale)}" for rule in rules)
    return picture_frame("Differences and their intervals", text, WIDTH, bottom + 42, "".join(parts))


def _row(rule: Rule, scale: float, x_of: Callable[[float], float], top: float) -> str:
    figures = _figures(rule, scale)
    room = int((_RIGHT - _LEFT) / EM)
    name = plain(str(rule["rule"]))
    name = name if len(name) <= room else name[: room - 1] + "…"
    line = top + 50
    low, effect, high, asked = (x_of(scale * rule[key]) for key in ("low", "effect", "high", "threshold"))
    toward = 6.0  # the good side of the line is to its right: a difference has to be above it
    return (
        f'<g class="verdict-{rule["verdict"]}"><title>{svg_text(f"{name}: {figures}")}</title>'
        + text_at("label", _LEFT, top + 16, name)
        + text_at("value", _LEFT, top + 32, figures)
        + stroke("asked", asked, line - 13, asked, line + 13)
        + f'<path class="asked-side" d="M{asked:.1f} {line - 13:.1f}l{toward} 4l-{toward} 4z"/>'
        + stroke("whisker", low, line, high, line)
        + f'<circle class="dot" cx="{effect:.1f}" cy="{line:.1f}" r="5"/></g>'
    )


def _figures(rule: Rule, scale: float) -> str:
    digits = ".1f" if scale == 100 else ".4g"
    effect, low, high = (format(scale * rule[key], f"+{digits}") for key in ("effect", "low", "high"))
    return f"{effect} ({low} to {high}), n = {rule['n']:,}: {rule['verdict']}"


def _metric(rule: Rule) -> str:
    return str(rule["rule"]).partition(" ")[0]
