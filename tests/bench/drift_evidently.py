"""What Evidently says of the days that `tests.bench.drift --export FILE` wrote.

    python tests/bench/drift_evidently.py FILE

For an environment of its own, with `evidently` 0.7.23 and pandas 2 (it cannot be imported with 3). The preset
for data drift, as it comes: an alarm where it says that the data set drifted, or that any column did.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any


def drifted(reference: Any, current: Any) -> tuple[bool, bool]:
    """Whether the data set, and whether any column drifted, by the preset."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    result = Report([DataDriftPreset()]).run(current, reference).dict()
    share = next(m["value"] for m in result["metrics"] if "DriftedColumnsCount" in m["metric_name"])
    return share["share"] >= 0.5, share["count"] > 0


def main() -> None:
    import pandas

    streams = json.loads(Path(sys.argv[1]).read_text())
    for change, deployments in streams.items():
        firsts: dict[str, list[int]] = {"data set": [], "any column": []}
        for reference, *days in deployments:
            known = pandas.DataFrame(reference).rename(columns=str)
            first: dict[str, int] = {}
            rows = 0
            for day in days:
                rows += len(day)
                both = drifted(known, pandas.DataFrame(day).rename(columns=str))
                for way, alarm in zip(firsts, both, strict=True):
                    if alarm:
                        first.setdefault(way, rows)
            for way, row in first.items():
                firsts[way].append(row)
        for way, found in firsts.items():
            rows_until = f"{median(found):,.0f}" if found else "–"
            of = len(deployments)
            print(f"{change:<26}{way:<12}{len(found) / of:>7.0%} of {of}  {rows_until}", flush=True)


if __name__ == "__main__":
    main()
