"""The ladder as words: the same cells in the terminal and on the page."""

from __future__ import annotations

from flows.ladder.model import Figure, Ladder, Rung

HEAD = ("Form", "Against", "KL", "Same top", "Flips", "Perplexity", "Answers changed")


def ladder_cells(rung: Rung) -> list[tuple[str, str]]:
    """(value, interval) of mean KL, its 99th percentile, same top token, flips, perplexity, changes."""
    figures = rung.figures
    flips = figures.get("flips")
    return [
        _cell(figures.get("kl_mean"), "{:.3g}"),
        _cell(figures.get("kl_p99"), "{:.3g}"),
        _cell(figures.get("same_top"), "{:.1%}"),
        _cell(flips, "{:.1%}"),
        _cell(figures.get("perplexity_ratio"), "{:.3f}"),
        _answers(rung),
    ]


def terminal_rows(ladder: Ladder) -> list[list[str]]:
    """One row per compared form, of the columns in `HEAD`."""
    rows = []
    for rung in ladder.rungs:
        if rung.parent is None and not rung.findings:
            continue
        kl, _, top, flips, perplexity, answers = (value for value, _ in ladder_cells(rung))
        rows.append([rung.label, rung.parent or "–", kl, top, flips, perplexity, answers])
    return rows


def _cell(figure: Figure | None, form: str) -> tuple[str, str]:
    if figure is None:
        return "–", ""
    return form.format(figure.value), f"{form.format(figure.low)}–{form.format(figure.high)}"


def _answers(rung: Rung) -> tuple[str, str]:
    if not rung.compared:
        return "–", ""
    won = f"+{rung.gained} −{rung.lost} right" if rung.gained is not None else ""
    return f"{rung.changed} of {rung.compared}", won


def moved_from_start(ladder: Ladder) -> list[str]:
    """Of a model trained on preferences how far it went from what that began with, a sentence each."""
    found = [(rung.label, *_cell(rung.to_start.get("kl_mean"), "{:.3g}")) for rung in ladder.rungs]
    return [
        f"{label}: mean KL {value} ({interval}) nats per token to what training on preferences began with."
        for label, value, interval in found
        if interval
    ]
