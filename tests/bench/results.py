"""How a bench reports: it prints its tables, and writes them as JSON with all that they depend on.

    with Report("commands", "prefect", "sqlalchemy") as report:
        report.row("Commands", {"command": "artifacts ls", "seconds": 0.39, "bar (s)": 0.5}, behind=False)

A row holds texts, numbers and intervals (low, high); the name of a column ends with its unit in brackets, and
one named "ratio" or "… / …" says against what. `behind`: somebody else is faster there, or a limit is missed;
such rows come first. `python -m tests.bench NAME` has it write NAME.json, and adds which share of the cores
other work had; by itself a bench only prints. One that fails writes nothing. `tests.bench.page` makes
docs/benchmarks.md of the files.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from serving.cores import usable_cores

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "TUNELINE_BENCHMARKS"
"""The environment's variable that says where to write; without it nothing is written."""
HIDES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")
ABILITIES = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}
Cell = str | float | Sequence[float] | None
Row = Mapping[str, Cell]


class Report:
    """Tables of one bench, from when it is entered; `packages`: those whose versions matter."""

    def __init__(self, bench: str, *packages: str) -> None:
        self._bench, self._packages = bench, packages
        self._tables: dict[str, dict[str, Any]] = {}

    def row(self, table: str, cells: Row, behind: bool = False) -> None:
        """Adds it to the table of that title, and prints it so that one sees how far it is."""
        if table not in self._tables:
            self._tables[table] = {"title": table, "rows": []}
            print(f"{table}: {', '.join(cells)}", flush=True)
        kept = {key: float(f"{cell:.5g}") if isinstance(cell, float) else cell for key, cell in cells.items()}
        self._tables[table]["rows"].append({**kept, "behind": True} if behind else kept)
        print("  " + ", ".join(shown(cell) for cell in cells.values()), flush=True)

    def plot(self, table: str, x: str, y: str, by: str) -> None:
        """The page draws the column `y` of the table over its column `x`, a line for each value of `by`."""
        self._tables[table]["plot"] = {"x": x, "y": y, "by": by}

    def note(self, table: str, text: str) -> None:
        """A sentence under the table."""
        self._tables[table]["note"] = text

    def __enter__(self) -> Self:
        self._machine = _machine()  # before a bench keeps itself to one core
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            return
        found = {
            "bench": self._bench,
            "arguments": [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]],
            "date": date.today().isoformat(),
            "commit": _commit(),
            "machine": self._machine,
            "versions": {name: version(name) for name in self._packages},
            "seconds": round(time.monotonic() - self._began, 1),
            "others": None,
            "tables": list(self._tables.values()),
        }  # fmt: skip
        folder = os.environ.get(FOLDER)
        if folder is None:
            print(f"\n{stamp(found)}\n\n{tables(found)}")
        else:
            write(Path(folder), found)


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """The bench's JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{found['bench']}.json").write_text(text + "\n", "utf-8")


def tables(found: Mapping[str, Any]) -> str:
    """All tables of a bench's JSON, as Markdown."""
    return "\n\n".join(table(one) for one in found["tables"])


def table(one: Mapping[str, Any]) -> str:
    """One table as Markdown, what falls behind first and in bold."""
    columns = list(dict.fromkeys(key for row in one["rows"] for key in row if key != "behind"))
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in sorted(one["rows"], key=lambda row: not row.get("behind")):
        first, *others = (shown(row.get(column)) for column in columns)
        lines.append(f"| {' | '.join([f'**{first}**' if row.get('behind') else first, *others])} |")
    note = f"\n\n{one['note']}" if "note" in one else ""
    return f"*{one['title']}*\n\n" + "\n".join(lines) + note


def shown(cell: Cell) -> str:
    """A cell as a table has it: three digits of a number, `low–high` of an interval."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    if not isinstance(cell, int | float):
        return "–".join(shown(edge) for edge in cell)
    return f"{cell:,.0f}" if isinstance(cell, int) or abs(cell) >= 100 else f"{cell:.3g}"


def stamp(found: Mapping[str, Any]) -> str:
    """In one line when, where and of what the figures of a bench are, and who disturbed them.

    What is None was not recorded.
    """
    machine, others = found["machine"], found["others"]
    words = shlex.join(["python", "-m", f"tests.bench.{found['bench']}", *found["arguments"]])
    parts = [f"`{words}`", found["date"], found["commit"]]
    if found["seconds"]:
        parts.append(f"{found['seconds']:,.0f} s")
    if others is not None:
        quiet = others < 0.03
        parts.append(
            "nothing else running" if quiet else f"**other work had {100 * others:.0f} % of the cores**"
        )
    able, memory, python = (machine[key] for key in ("arithmetic", "memory (GB)", "python"))
    parts.append(f"{machine['cores']} cores of {machine['processor']}" + (f" with {able}" if able else ""))
    parts += [f"{memory} GB"] * bool(memory) + [f"Python {python}"] * bool(python)
    return ", ".join([*parts, *(f"{name} {number}" for name, number in found["versions"].items())]) + "."


def _machine() -> dict[str, Any]:
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    able = next((name for flag, name in ABILITIES.items() if flag in flags), platform.machine())
    hidden = [f"{name}={os.environ[name]}" for name in HIDES if name in os.environ]
    return {
        "processor": facts.get("model name", platform.machine()),
        "cores": usable_cores(),
        "arithmetic": " ".join([able, *hidden]),
        "python": platform.python_version(),
        "memory (GB)": round(psutil.virtual_memory().total / 1e9),
    }


def _commit() -> str:
    """Of the checkout, with a plus sign where its code was changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    code = ("flows", "stages", "registry", "serving", "tests")
    changes = [*git, "status", "--porcelain", "--untracked-files=no", "--", *code]
    changed = subprocess.run(changes, capture_output=True, text=True).stdout
    return head.stdout.strip() + "+" * bool(changed) if head.returncode == 0 else "no commit"
