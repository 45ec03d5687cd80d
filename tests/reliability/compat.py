"""The compatibility contract at full size: `python -m tests.reliability.compat --trials 50000`.

Every mismatch fixture is refused for its own reason and no other; of `--trials` valid pairs, in which all
that may differ differs, none is refused; and with each check switched off, something wrong passes. Prints one
JSON document; exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from registry.compat.contract import checkers, examine
from registry.compat.model import pair
from tests.registry.compat_cases import MISMATCHES, Case, valid


def refused(case: Case, without: frozenset[str] = frozenset()) -> set[str]:
    answers = examine(pair(case.base, case.dependent, case.use), without)
    return {one.name for one in answers if one.state == "refused"}


def survey(trials: int, seed: int) -> dict[str, Any]:
    cases = {wrong: (check, make()) for wrong, (check, make) in MISMATCHES.items()}
    misjudged = [wrong for wrong, (check, case) in cases.items() if refused(case) != {check}]
    idle = [
        name
        for name in checkers()
        if not any(check == name and not refused(case, frozenset({name})) for check, case in cases.values())
    ]
    false_refusals, slowest = 0, 0.0
    for case in valid(trials, seed):
        started = time.perf_counter()
        false_refusals += bool(refused(case))
        slowest = max(slowest, time.perf_counter() - started)
    return {
        "mismatches": len(cases), "misjudged": misjudged, "checks": len(checkers()), "idle_checks": idle,
        "valid_pairs": trials, "false_refusals": false_refusals, "slowest_seconds": round(slowest, 4),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=50_000, help="valid pairs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    report = survey(given.trials, given.seed)
    print(json.dumps(report, indent=1))
    return 1 if report["misjudged"] or report["idle_checks"] or report["false_refusals"] else 0


if __name__ == "__main__":
    sys.exit(main())
