"""The report of a run as Markdown, for places that show no HTML of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.formatting import duration, markdown_cell
from flows.report.report import model_cells, stage_cells
from flows.report.rows import RunReport, measured_on, tasks_of, verdict
from flows.run.prefect_view import Ending


def markdown(report: RunReport, html: Path) -> str:
    """Verdict, stages, scores, the gate's sentences, and `html`, where the HTML report lies, to be copied."""
    words = verdict(report)[1]
    lines = [f"## {markdown_cell(report.recipe)}: {markdown_cell(words)}", ""]
    lines += [
        f"Run {report.run_id}, {report.started:%Y-%m-%d %H:%M %Z}, took {duration(report.seconds)}.",
        "",
    ]
    if report.arithmetic is not None:
        lines += [markdown_cell(report.arithmetic), ""]
    for row in report.stages:
        if row.note:
            lines.append(f"- {markdown_cell(row.label)}: {markdown_cell(row.note)}")
    lines += ["", *_table(*stage_cells(report.stages))]
    if report.models:
        lines += _table(*model_cells(report.models, tasks_of(report)))
        lines += [markdown_cell(line) for line in measured_on(report)]
    if report.gate is not None:
        lines += ["", f"### Gate: {report.gate['verdict']}", ""]
        lines += [f"- {markdown_cell(rule['sentence'])}" for rule in report.gate.get("rules", ())]
    if report.endpoint is not None:
        lines += ["", f"Endpoint: {report.endpoint['url']} ({report.endpoint['engine']})"]
    lines += [
        "",
        "The whole report, to open in a browser on the machine that ran this:",
        "",
        f"    {html}",
        "",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in cells]
    return [*lines, ""]


def _cell(text: str) -> str:
    return text if text == "---" else markdown_cell(text)


def ending(report: RunReport, html: Path) -> Ending:
    """How the run ended, as Prefect shows it."""
    tone, words = verdict(report)
    notes = tuple(row.note for row in report.stages if row.state in ("failed", "interrupted"))
    return Ending(tone, words, notes, markdown(report, html))
