"""The report of a run: a summary in the terminal here, an HTML page through `write_html`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.formatting import as_typed, duration, plain, short, size
from flows.ladder.model import Ladder
from flows.ladder.rows import HEAD, moved_from_start, terminal_rows
from flows.report.lineage_picture import LineageEdge, LineageNode
from flows.report.page import write_html
from flows.report.rows import AnswerRow, ModelRow, RunReport, Score, measured_on, tasks_of, verdict
from flows.run.stage_row import StageRow

__all__ = [
    "AnswerRow",
    "LineageEdge",
    "LineageNode",
    "ModelRow",
    "RunReport",
    "Score",
    "StageRow",
    "render_terminal",
    "verdict",
    "write_html",
]

_TASKS_PER_TABLE = 3
_LONGEST_ANSWER = 400
_RIGHT = {"Time", "Peak memory", "Size", "Bits/weight"}
_NARROW = {*_RIGHT, "Stage", "State", "Artifact"}


def render_terminal(report: RunReport, console: Console, html: Path | None = None) -> None:
    """Print the summary of a run; `html` is where its HTML report lies."""
    tone, headline = verdict(report)
    style = {"pass": "bold green", "done": "bold", "interrupted": "bold yellow"}.get(tone, "bold red")
    console.print()
    _say(console, f"{report.recipe}: {headline}", style)
    _say(
        console,
        f"run {report.run_id}, {report.started:%Y-%m-%d %H:%M %Z}, took {duration(report.seconds)}",
        "dim",
    )
    if report.arithmetic is not None:
        _say(console, report.arithmetic, "dim")
    _print_table(console, "Stages", *stage_cells(report.stages))
    for row in report.stages:
        if row.state == "failed":
            _say(console, f"{row.label} failed{row.note and ': '}{row.note}", "bold red")
        elif row.state == "interrupted":
            _say(console, f"{row.label}: {row.note}", "yellow")
        elif row.note:
            _say(console, f"{row.label}: {row.note}", "dim")
    tasks = tasks_of(report)
    for start in range(0, len(tasks), _TASKS_PER_TABLE):
        _print_table(console, "Models", *model_cells(report.models, tasks[start : start + _TASKS_PER_TABLE]))
    for line in measured_on(report):
        _say(console, line, "dim")
    _print_ladder(report, console)
    _print_gate(report, console)
    if report.answers:
        rows = [[_cut(cell) for cell in row] for row in report.answers]
        _print_table(console, "Answers", ["Question", "Untuned", "Tuned", "Served"], rows, lines=True)
    _print_places(report, console, html)


def stage_cells(stages: Sequence[StageRow]) -> tuple[list[str], list[list[str]]]:
    """The table of stages: its head and its rows."""
    head = ["Stage", "State", "Time", "Peak memory", "Artifact"]
    rows = [
        [row.label, row.state, duration(row.seconds), size(row.peak_bytes), short(row.artifact_id)]
        for row in stages
    ]
    return head, rows


def model_cells(models: Sequence[ModelRow], tasks: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The table of models with their scores on these tasks: its head and its rows."""
    counts = {task: {row.scores[task].n for row in models if task in row.scores} for task in tasks}
    common = {task: f" (n={n.pop()})" for task, n in counts.items() if len(n) == 1}
    head = ["Model", *(task + common.get(task, "") for task in tasks), "Size", "Bits/weight"]
    rows = []
    for row in models:
        scores = [_score(row.scores.get(task), task in common) for task in tasks]
        bits = f"{row.bits_per_weight:.2f}" if row.bits_per_weight is not None else "–"
        rows.append([row.label, *scores, size(row.bytes), bits])
    return head, rows


def _score(score: Score | None, n_in_head: bool) -> str:
    if score is None:
        return "–"
    return str(score) if n_in_head else f"{score} n={score.n}"


def _print_ladder(report: RunReport, console: Console) -> None:
    if report.ladder is None:
        return
    ladder = Ladder.model_validate(report.ladder)
    _print_table(console, "Ladder", HEAD, terminal_rows(ladder))
    _say(console, ladder.sentence, "bold red" if ladder.breaks_at else "")
    if ladder.merge_base is not None:
        _say(console, f"The merge was {ladder.merge_base['reason']}.", "dim")
    for line in moved_from_start(ladder):
        _say(console, line, "dim")


def _print_gate(report: RunReport, console: Console) -> None:
    if report.gate is None:
        return
    console.print()
    _say(console, f"Gate: {report.gate['verdict']}", "bold")
    for rule in report.gate.get("rules", ()):
        console.print(Padding(_shown(console, rule["sentence"]), (0, 0, 0, 2)))


def _print_places(report: RunReport, console: Console, html: Path | None) -> None:
    console.print()
    if (channel := report.channel) is not None:
        to = f"{short(channel['artifact_id'])}, generation {channel['generation']}"
        _say(console, f"Channel: {channel['name']} points to {to}")
    if (held := report.resident) is not None:
        rank = f", max_rank: {held['max_rank']}" if "max_rank" in held else ""
        section = f"{{engine: {held['engine']}, model: {held['name']}{rank}}}"
        _say(console, f"Adapter apart: serve.yaml needs the engine {section}")
    if (endpoint := report.endpoint) is not None:
        name = (endpoint.get("config") or {}).get("name")
        model = f", model: {name}" if name else ""
        _say(console, f"Endpoint: {endpoint['url']}/v1 ({endpoint['engine']}{model})")
        if endpoint.get("channel"):
            _say(console, f"Ask it: tuneline chat {endpoint['channel']}")
        _say(console, f"Stop it: tuneline endpoints stop {endpoint['id']}")
    if html is not None:
        # Whole even where it is longer than a line: people click on it or copy it.
        console.print(_shown(console, f"Report: {html}"), soft_wrap=True)


def _print_table(
    console: Console, title: str, head: Sequence[str], rows: Iterable[Sequence[str]], lines: bool = False
) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_lines=lines, box=box.SIMPLE_HEAD
    )
    for column in head:
        table.add_column(
            _shown(console, column),
            justify="right" if column in _RIGHT else "left",
            overflow="fold",
            no_wrap=column in _NARROW,
        )
    for row in rows:
        table.add_row(*(_shown(console, cell) for cell in row))
    console.print()
    console.print(table)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(_shown(console, as_typed(text), style))


def _shown(console: Console, text: str, style: str = "") -> Text:
    """`words` as they can be written there: a log in plain ASCII must not end a run with an error."""
    text = plain(text)
    if not console.encoding.lower().startswith("utf"):
        text = text.replace("–", "-").replace("…", "...")
        text = text.encode(console.encoding, "replace").decode(console.encoding)
    return Text(text, style=style)


def _cut(answer: str | None) -> str:
    if answer is None:
        return "–"
    return answer if len(answer) <= _LONGEST_ANSWER else answer[:_LONGEST_ANSWER] + "…"
