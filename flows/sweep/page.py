"""A sweep as a page that loads nothing: how the scores came, what each setting gave, and the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flows.formatting import VERDICTS, template_environment
from flows.report.charts import Series, line_chart
from flows.report.page import write_whole
from flows.sweep.outcome import SweepOutcome, Trial
from flows.sweep.table import head, keys, rows, sentences

PAGE = "sweep.html"


def write_page(found: SweepOutcome, command: str | None = None, verdict: str | None = None) -> Path | None:
    """Write the page into the sweep's folder; where it lies, None where the sweep has no folder yet.

    `command`: how the best one is run by itself; `verdict`: of the gate, on the test rows.
    """
    if found.folder is None:
        return None
    template = template_environment(autoescape=True).get_template("sweep.html.j2")
    path = found.folder / PAGE
    page = template.render(
        found=found,
        sentences=sentences(found),
        verdict=None if verdict is None else (verdict, VERDICTS.get(verdict, verdict)),
        command=command,
        pictures=[Markup(picture) for picture in pictures(found)],
        head=head(found),
        rows=rows(found),
        best=str(found.best.number) if found.best else None,
        notes=[trial for trial in found.trials if trial.note],
    )
    write_whole(page, path)
    return path


def pictures(found: SweepOutcome) -> Iterator[str]:
    """SVG pictures: the scores in the order of the trials, then by each key that takes numbers."""
    measured = [trial for trial in found.trials if trial.score is not None]
    if not measured:
        return
    yield _history(found, measured)
    for key in keys(found):
        if all(_is_number(trial.values[key]) for trial in measured):
            yield _by_key(found, measured, key)


def _history(found: SweepOutcome, measured: list[Trial]) -> str:
    scores = [(float(trial.number), _value(trial)) for trial in measured]
    highest = accumulate((score for _, score in scores), max)
    so_far = list(zip((number for number, _ in scores), highest, strict=True))
    series = [Series("best so far", so_far), Series("a trial", scores, dots=True, line=False)]
    if found.untuned is not None:
        ends = (scores[0][0], scores[-1][0])
        series.append(Series("base", [(end, found.untuned["value"]) for end in dict.fromkeys(ends)]))
    early = [str(trial.number) for trial in found.trials if trial.score is None]
    left_out = f"; without a score: trials {', '.join(early)}" if early else ""
    return line_chart(
        series,
        title="Scores in the order of the trials",
        description=f"{len(scores)} trials from {min(s for _, s in scores):.4g} to "
        f"{max(s for _, s in scores):.4g}{left_out}",
        x_label="trial",
        y_label=_label(found),
    )


def _by_key(found: SweepOutcome, measured: list[Trial], key: str) -> str:
    values = [float(trial.values[key]) for trial in measured]
    powers = min(values) > 0 and max(values) >= 10 * min(values)
    places = [math.log10(value) for value in values] if powers else values
    points = sorted(zip(places, map(_value, measured), strict=True))
    x_label = f"{key}, as a power of ten" if powers else key
    return line_chart(
        [Series("a trial", points, dots=True, line=False)],
        title=f"Scores by {key}",
        description=f"{len(points)} trials with {key} from {min(values):.4g} to {max(values):.4g}",
        x_label=x_label,
        y_label=_label(found),
    )


def _label(found: SweepOutcome) -> str:
    counts = {trial.score["n"] for trial in found.trials if trial.score is not None}
    return f"{found.metric}, {min(counts)} validation items"


def _value(trial: Trial) -> float:
    assert trial.score is not None
    return float(trial.score["value"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
