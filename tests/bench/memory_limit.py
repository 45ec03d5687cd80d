"""Whether what `tuneline check` approves dies of memory: each stage in a memory control group of its
prediction and 10 %.

    python -m tests.bench.memory_limit [--only WORDS] [--share 1.1]

The models and rows of `tests.bench.planner`. Each stage is a process of its own in a group that holds nothing
else, on version 1 or 2 of control groups; it needs the right to make one, as root has or a container with
`--cgroupns=private`. What the system keeps of files counts in a group too, and is given up before anything is
killed. A row per stage: its limit, what the group held at most, how often the limit was reached, and whether
the stage lived. Never asserts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.planning.estimate import estimate
from flows.planning.machine import machine
from flows.run.child import StageExecution, run_in_child
from flows.settings import Settings
from registry.artifacts import digest
from stages.contract import Facts, Parent
from stages.errors import StageKilled
from stages.model_shape import describe_base
from tests.bench.planner import CASES, Bench, recipe_of, write_rows
from tests.bench.results import Report

VERSIONS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak", "memory.events"),
)
"""Root, limit, most that was held, and how often it was reached, of version 1 and of version 2."""


class Group:
    """A control group with a limit, while it is entered; processes that start meanwhile are in it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.most = self.reached = 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Raises SystemExit where no group may be made."""
        for version in VERSIONS:
            root, limit = version[:2]
            group = root / f"tuneline-bench-{os.getpid()}"
            with contextlib.suppress(OSError):
                group.mkdir()
                (group / limit).write_text(str(self._limit))
                break
            with contextlib.suppress(OSError):
                group.rmdir()
        else:
            raise SystemExit("no memory control group may be made here: run it as root, or in a container")
        before, (most, reached) = _own_group(root), version[2:]
        try:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            yield
        finally:
            (before / "cgroup.procs").write_text(str(os.getpid()))
            with contextlib.suppress(OSError):
                self.most = int((group / most).read_text())
            counts = (group / reached).read_text().split()
            self.reached = int(counts[counts.index("max") + 1] if "max" in counts else counts[0])
            group.rmdir()


def _own_group(root: Path) -> Path:
    """Where this process is now."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) == (root.name == "memory"):
            folder = root / path.strip("/")
            return folder if folder.is_dir() else root
    return root


class LimitedBench(Bench):
    """Runs each stage in a process of its own, within `share` of what is predicted."""

    def __init__(self, folder: Path, share: float, report: Report) -> None:
        self.folder, self.share, self.report = folder, share, report
        self.machine = machine(folder, Settings().cache_folder)
        self.predicted: Mapping[str, int] = {}
        self._made: dict[str, tuple[Parent, StageExecution]] = {}
        self._bases: dict[str, Parent] = {}
        self.lived: list[bool] = []
        self.case = ""

    def stage(self, stage: str, config: Any, parents: Mapping[str, Parent]) -> tuple[Parent, StageExecution]:
        ids = {role: parent.id for role, parent in parents.items()}
        key = digest([stage, config.model_dump(mode="json"), ids])
        if key not in self._made:
            self._made[key] = self._limited(key, stage, config, parents)
        return self._made[key]

    def _limited(
        self, key: str, stage: str, config: Any, parents: Mapping[str, Parent]
    ) -> tuple[Parent, StageExecution]:
        out = self.folder / key
        out.mkdir()
        label = f"quantize {config.label}" if stage == "quantize" else stage
        predicted = next(held for name, held in self.predicted.items() if name.startswith(label))
        group = Group(int(self.share * predicted))
        try:
            with group.entered():
                execution = run_in_child(
                    stage, parents, config, out, self.folder / f"{key}.log", lambda _: None
                )
        except StageKilled:
            self._tell(label, predicted, group, None)
            raise
        self._tell(label, predicted, group, execution)
        facts = Facts.model_validate(execution.facts)
        return (
            Parent(
                id=key, kind=facts.kind, path=out, base=facts.base, quant=facts.quant, metrics=facts.metrics
            ),
            execution,
        )

    def _tell(self, label: str, predicted: int, group: Group, execution: StageExecution | None) -> None:
        self.lived.append(execution is not None)
        self.report.row(
            f"Stages in groups that may hold {self.share:g} times what is predicted",
            {
                "stage": label,
                "model, tokens of a row, arithmetic": self.case,
                "predicted (MB)": predicted / 1e6,
                "limit (MB)": self.share * predicted / 1e6,
                "held at most (MB)": group.most / 1e6,
                "limit reached (times)": group.reached,
                "resident (MB)": execution.peak_bytes / 1e6 if execution else None,
                "lived": "yes" if execution else "killed",
            },
            behind=execution is None,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases with this in their line")
    parser.add_argument("--share", type=float, default=1.1, help="of the prediction that a group may hold")
    given = parser.parse_args()
    with Report("memory_limit", "torch", "transformers") as report, tempfile.TemporaryDirectory() as name:
        bench = LimitedBench(Path(name), given.share, report)
        for case in (case for case in CASES if given.only in case.label and (case.quick or given.only)):
            data = bench.folder / f"{case.length}.jsonl"
            if not data.exists():
                write_rows(data, case.length)
            recipe = recipe_of(case, bench.base(case.model).path, data)
            rows = estimate(recipe, describe_base(recipe.base.source), bench.machine)
            bench.predicted = {row.stage: row.memory_bytes for row in rows}
            bench.case = case.label
            with contextlib.suppress(StageKilled):
                for _ in bench.measure(case):
                    pass
    print(f"{sum(bench.lived)} of {len(bench.lived)} stages lived")


if __name__ == "__main__":
    main()
