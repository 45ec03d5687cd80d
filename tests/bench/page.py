"""docs/benchmarks.md and its pictures, made of docs/benchmarks/*: `python -m tests.bench.page` writes them.

A section is NAME.md, whose first line is its heading; the tables of NAME.json, where there are any, follow
the heading, and then the rest of its text, which says what was compared and keeps what was measured before.
Links in it are seen from its own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flows.report.charts import Series, line_chart
from flows.report.svg import EM
from tests.bench.results import ROOT, stamp, table
from tests.pictures import document, height_of, placed

DOCS = ROOT / "docs"
FOLDER = DOCS / "benchmarks"
ORDER = (
    "demo", "commands", "planner", "plan_serve", "memory_limit", "published", "tests", "ladder",
    "evaluate_peers", "arithmetic", "train", "train_peers", "merge", "gptq_peers", "prepare",
    "large_data", "registry", "registry_peers", "api", "ui",
    "ui_and_gateway", "adapters", "llama_server", "schemas", "adapter_memory", "many_tenants", "fuzz",
    "gateway", "budgets", "affinity", "served_answers", "canaries", "drift", "drift_hidden_states",
    "drift_evidently", "gates", "threads", "backup",
)  # fmt: skip
INTRODUCTION = """# Benchmarks

<!-- Written by `make docs` from docs/benchmarks/*.md and *.json. Edit those. -->

`make bench` runs all benches and takes hours, `make bench-merge` one of them; each writes a JSON file into
`docs/benchmarks`, and `make docs` makes this page of them. Times differ from machine to machine, and from
hour to hour on one: read the ratios, and how much other work there was.

Versions, where nothing else is said: torch 2.13.0 CPU, transformers 5.19.0, peft 0.21.2, bitsandbytes 0.50.2,
trl 1.16.0, gptqmodel 7.6.0, lm-eval 0.4.13, llama-cpp-python 0.3.36, prefect 3.8.8.

**Bold rows come first: somebody else is faster there, or a limit is missed.** The last column counts them; a
section without a date there has its dates in its text.

| section | measured | on | other work | behind |
|---|---|---|---|---|
"""


class Section(NamedTuple):
    """A heading with its marks, what a bench found, and the text."""

    name: str
    heading: str
    found: Mapping[str, Any] | None
    text: str


def sections(folder: Path = FOLDER) -> Iterator[Section]:
    """In the page's order. Raises FileNotFoundError where a text is missing."""
    for name in ORDER:
        heading, _, text = (folder / f"{name}.md").read_text("utf-8").partition("\n")
        file = folder / f"{name}.json"
        found = json.loads(file.read_text("utf-8")) if file.exists() else None
        yield Section(name, heading, found, re.sub(r"\]\(\.\./", "](", text).strip())


def documents(folder: Path = FOLDER) -> dict[str, str]:
    """Path below docs/ -> text, of the page and each picture."""
    index, parts, pictures = [], [], {}
    for section in sections(folder):
        index.append(_line(section))
        parts.append(section.heading)
        if section.found is not None:
            parts.append(stamp(section.found))
            for number, one in enumerate(section.found["tables"], 1):
                parts.append(table(one))
                if "plot" in one:
                    path = f"benchmarks/{section.name}-{number}.svg"
                    pictures[path] = picture(one)
                    parts.append(f"![{one['title']}]({path})")
        parts.append(section.text)
    page = INTRODUCTION + "\n".join(index) + "\n\n" + "\n\n".join(filter(None, parts)) + "\n"
    return {"benchmarks.md": page, **pictures}


def _line(section: Section) -> str:
    marks, _, title = section.heading.partition(" ")
    anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    link = f"{'– ' * (len(marks) - 2)}[{title}](#{anchor})"
    found = section.found
    if found is None:
        return f"| {link} | | | | |"
    rows = [row for one in found["tables"] for row in one["rows"]]
    behind = sum(row.get("behind", False) for row in rows)
    others = "–" if found["others"] is None else f"{100 * found['others']:.0f} %"
    on = ", ".join(filter(None, (found["machine"][key] for key in ("processor", "arithmetic"))))
    count = f"**{behind}** of {len(rows)}" if behind else f"0 of {len(rows)}"
    return f"| {link} | {found['date']} | {on} | {others} | {count} |"


def picture(one: Mapping[str, Any]) -> str:
    """A table's `y` over its `x`, as an SVG; a line for each value of `by`."""
    x, y, by = (one["plot"][key] for key in ("x", "y", "by"))
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in one["rows"]:
        if row.get(x) is not None and row.get(y) is not None:
            lines.setdefault(row[by], []).append((row[x], row[y]))
    series = [Series(name, sorted(points), dots=True) for name, points in lines.items()]
    chart = line_chart(series, title=one["title"], description=f"{y} over {x}", x_label=x, y_label=y)
    width = 60 + sum(35 + EM * len(name) for name in lines)  # of the legend, which may stick out
    return document(
        one["title"], f"{y} over {x}", max(420, width), height_of(chart) + 10, placed(chart, 10, 5)
    )


def main() -> None:
    for path, text in documents().items():
        (DOCS / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
