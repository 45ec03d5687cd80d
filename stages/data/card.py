"""What a reader should know of a prepared dataset: statistics for programs, a card for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stages.data.source import placeless

_BINS = 20
_QUANTILES = {"p05": 0.05, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def length_figures(lengths: np.ndarray, max_length: int) -> dict[str, object]:
    """Quantiles and a histogram of the rows' lengths in tokens.

    Bin k counts edges[k] < length ≤ edges[k + 1]; the last edge is `max_length`.
    """
    edges = np.unique(np.linspace(0, max_length, min(_BINS, max_length) + 1).round().astype(int))
    counts, _ = np.histogram(lengths, bins=edges + 0.5)
    ranked = np.quantile(lengths, list(_QUANTILES.values()), method="inverted_cdf")
    return {
        "min": int(lengths.min()),
        **{name: int(value) for name, value in zip(_QUANTILES, ranked, strict=True)},
        "max": int(lengths.max()),
        "mean": round(float(lengths.mean()), 2),
        "histogram": {"unit": "tokens", "edges": edges.tolist(), "counts": counts.tolist()},
    }


def card(facts: Mapping[str, Any], settings: Mapping[str, Any], example: str) -> str:
    """A Markdown data card, with the front matter by which `datasets` finds the splits.

    The source is named without its folder: the card belongs to the data, whose id no place may change.
    """
    source = placeless(settings["source"])
    mix = [{**mixed, "source": placeless(mixed["source"])} for mixed in settings.get("mix", ())]
    settings = {**settings, "source": source, **({"mix": mix} if mix else {})}
    lengths = {name: value for name, value in facts["tokens"].items() if name != "histogram"}
    parts = [
        _front_matter(facts["licence"], facts["splits"]),
        "# Prepared dataset",
        f"Source: `{source}`, read as `{facts['format']}`. Licence: {facts['licence'] or 'not stated'}.",
        *_mixed(facts.get("mixed", ())),
        "## Rows",
        _table(("", "rows"), _row_counts(facts)),
        "Rejected rows stand in `rejects.jsonl` with their line and the reason. "
        "Short, ambiguous and repeated utterances and later lines are left out before they count as read.",
        *_unused(facts["unused_fields"]),
        "## Splits",
        "By distinct prompt: all rows with one prompt (normalized: case, white space, Unicode form) stand in "
        "one split.",
        _table(("split", "rows", "distinct prompts", "tokens", "trained tokens"), _splits(facts["splits"])),
        "## Length",
        "Tokens of the rendered chat, by the base model's tokenizer and chat template, over all splits.",
        _table(tuple(lengths), [tuple(lengths.values())]),
        "## One row as the model sees it",
        _fenced(example),
        "## Settings",
        _table(("key", "value"), _quoted(settings)),
        "## Source files",
        _table(("file", "sha256, or commit"), _quoted(_files(facts))),
    ]
    return "\n\n".join(parts) + "\n"


def _row_counts(facts: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rejected = [(f"rejected: {code}", count) for code, count in facts["rejected"].items()]
    dropped = [(f"dropped: {what.replace('_', ' ')}", count) for what, count in facts["dropped"].items()]
    return [("read", facts["rows"]["read"]), *rejected, *dropped, ("accepted", facts["rows"]["accepted"])]


def _splits(splits: Mapping[str, Mapping[str, int]]) -> list[tuple[Any, ...]]:
    figures = ("rows", "prompts", "tokens", "trainable")
    return [(name, *(split[figure] for figure in figures)) for name, split in splits.items()]


def _files(facts: Mapping[str, Any]) -> dict[str, str]:
    others = [
        (f"{one['source']}: {file}", digest)
        for one in facts.get("mixed", ())
        for file, digest in one["source_hashes"].items()
    ]
    return {**facts["source_hashes"], **dict(others)}


def _quoted(values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(f"`{name}`", f"`{value}`") for name, value in values.items()]


def _mixed(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    if not sources:
        return []
    rows = [
        (f"`{one['source']}`", one["format"], one["licence"] or "not stated", one["read"], one["kept"])
        for one in sources
    ]
    return [_table(("mixed with it", "read as", "licence", "rows read", "kept"), rows)]


def _unused(fields: Mapping[str, int]) -> list[str]:
    if not fields:
        return []
    counts = [(f"`{name}`", count) for name, count in fields.items()]
    return [
        "## Fields that are not used",
        "No format reads them, so nothing of them is in the chats.",
        _table(("field", "rows that have it"), counts),
    ]


def _front_matter(licence: str | None, splits: Iterable[str]) -> str:
    lines = ["---"]
    if licence:
        lines.append(f"license_name: {licence!r}")
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: {split}.parquet"]
    return "\n".join([*lines, "---"])


def _table(head: tuple[object, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int | float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
