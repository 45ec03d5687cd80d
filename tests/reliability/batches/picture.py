"""Curves and decisions of a drill's JSON as one SVG, which is readable on a light and on a dark page.

python -m tests.reliability.batches.picture batches.json docs/images/retraining-batches.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.report.charts import Series, line_chart
from flows.report.forest_plot import forest_plots
from flows.report.svg import WIDTH, text_at
from tests.pictures import document, height_of, placed

Day = Mapping[str, Any]
_GAP, _HEAD, _CHART = 40, 34, 280


def picture(days: Sequence[Day]) -> str:
    """An `svg` document: losses by step on the left, each day's rules with their intervals on the right.

    Raises KeyError for a document that is no drill's, ValueError where a day has no curve or no interval.
    """
    left = [_curves(days, "validation_loss", "on the rows held out for validation", dots=True)]
    left.append(_curves(days, "loss", "on the rows of each training step", dots=False))
    right = []
    for day in days:
        plots = forest_plots(day["rules"])
        if not plots:
            raise ValueError(f"{day['name']}: no rule with an interval to draw")
        right += [(f"{day['name']}: {day['state']}, the gate says {day['verdict']}", plot) for plot in plots]
    columns, height = [_column(left, 0), _column(right, WIDTH + _GAP)], 0.0
    height = max(tall for _, tall in columns)
    body = "".join(drawn for drawn, _ in columns)
    description = "; ".join(
        f"{day['name']} {day['state']}: " + " ".join(rule["sentence"] for rule in day["rules"])
        for day in days
    )
    title = "Three batches: losses of each day's training, and what its gate found"
    return document(title, description, 2 * WIDTH + _GAP, height, body)


def _curves(days: Sequence[Day], key: str, where: str, dots: bool) -> tuple[str, str]:
    series = [
        Series(day["name"], [(p["step"], p[key]) for p in day["history"] if key in p], dots) for day in days
    ]
    for one in series:
        if not one.points:
            raise ValueError(f"{one.name}: no {key} in its history")
    title = f"Loss {where}"
    return title, line_chart(
        series, title=title, description=title, x_label="training step", y_label="loss", height=_CHART
    )


def _column(plots: Sequence[tuple[str, str]], x: float) -> tuple[str, float]:
    """Pictures under each other, each under its title, and how tall they are together."""
    y, parts = 0.0, []
    for title, plot in plots:
        parts += [text_at("head", x + 10, y + 22, title), placed(plot, x, y + _HEAD)]
        y += _HEAD + height_of(plot)
    return "".join(parts), y


def main(source: str, target: str) -> None:
    Path(target).write_text(picture(json.loads(Path(source).read_text())["days"]), "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("expected two arguments: the drill's JSON, and the SVG to write")
    main(sys.argv[1], sys.argv[2])
