"""The report of a run as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flows.formatting import duration, short, size, template_environment
from flows.ladder.model import Ladder
from flows.ladder.rows import ladder_cells, moved_from_start
from flows.report.charts import ErrorBar, Series, interval_chart, length_chart, line_chart
from flows.report.forest_plot import forest_plots
from flows.report.ladder_chart import ladder_chart
from flows.report.lineage_picture import lineage_picture, reads_rows
from flows.report.rows import RunReport, measured_on, tasks_of, verdict
from stages.training_record import LOSSES, loss_of


def write_html(report: RunReport, path: Path) -> None:
    """Write the report as one HTML file that loads nothing from anywhere; it appears whole or not at all."""
    write_whole(html_page(report), path)


def write_whole(page: str, path: Path) -> None:
    """Write a page so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def html_page(report: RunReport) -> str:
    """The HTML document of a report."""
    environment = template_environment(autoescape=True)
    environment.filters.update(duration=duration, size=size, short=short, ladder_cells=ladder_cells)
    tone, headline = verdict(report)
    lengths = report.length_histogram
    ladder = Ladder.model_validate(report.ladder) if report.ladder else None
    return environment.get_template("report.html.j2").render(
        report=report,
        tone=tone,
        verdict=headline,
        tasks=tasks_of(report),
        score_charts=[Markup(_score_chart(report, task)) for task in tasks_of(report)],
        loss_chart=Markup(_loss_chart(report.history)) if report.history else None,
        undrawn=sum(not _drawable(row) for row in report.history),
        length_chart=Markup(length_chart(lengths["bins"], lengths["counts"])) if lengths else None,
        measured_on=measured_on(report),
        unseen=sum(reads_rows(edge, {node.id: node for node in report.nodes}) for edge in report.edges),
        ladder=ladder,
        moved=moved_from_start(ladder) if ladder else [],
        ladder_picture=Markup(ladder_chart(ladder)) if ladder else None,
        forest_plots=[Markup(plot) for plot in forest_plots(report.gate["rules"])] if report.gate else [],
        lineage=Markup(lineage_picture(report.nodes, report.edges)) if report.nodes else None,
    )


def _score_chart(report: RunReport, task: str) -> str:
    measured = [(row.label, row.scores[task]) for row in report.models if task in row.scores]
    rows = [ErrorBar(label, score.value, score.low, score.high, str(score)) for label, score in measured]
    counts = sorted({score.n for _, score in measured})
    items = f"{counts[0]} items" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} items"
    return interval_chart(
        rows,
        title=f"Scores on {task}",
        description="; ".join(f"{row.label}: {row.words}" for row in rows),
        share=all(score.is_share for _, score in measured),
        x_label=f"{task}, 95% intervals, {items}",
    )


def _drawable(row: Mapping[str, Any]) -> bool:
    return all(math.isfinite(row[key]) for key in ("loss", "validation_loss") if row.get(key) is not None)


def _loss_chart(history: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for row in history if _drawable(row)]
    train = [(float(row["step"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    held_out = [
        (float(row["step"]), float(row["validation_loss"]))
        for row in rows
        if row.get("validation_loss") is not None
    ]
    series = [Series("training", train), Series("validation", held_out, dots=True)]
    ends = [
        f"{line.name} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}"
        for line in series
        if line.points
    ]
    return line_chart(
        series,
        title="Loss during training",
        description="; ".join(ends) or "no finite loss was recorded",
        x_label="optimizer step",
        y_label=f"loss ({LOSSES[loss_of(history)]})",
    )
