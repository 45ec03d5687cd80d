"""How often sound engines alarm, and how soon faults are found: `python -m tests.bench.served_answers`.

Simulated gateways, whose engine answers a recorded question as recorded with some probability: at the limit
itself, the worst that is no fault, for 10,000 questions (a week at 60 an hour); or worse from the first
question on, or after 1,000 good ones.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from serving.gateway.config import ServedSection
from serving.gateway.served.evidence import CERTAIN, AnswerEvidence
from tests.bench.results import Report

ASKED = ServedSection()
SHARES = (0.0, 0.25, 0.5, 0.6)
SOUND_BEFORE = (0, 1000)


def first_alarms(
    share: float, questions: int, runs: int, seed: int, sound: int = 0, of: float = ASKED.alpha
) -> np.ndarray[Any, Any]:
    """After how many questions (from the fault on) each run alarms; 0: never. Shape [runs].

    `sound` questions before the fault are all answered as recorded.
    """
    draw = np.random.default_rng(seed)
    evidence = AnswerEvidence(ASKED.least, runs=runs)
    for _ in range(sound):
        evidence.add(np.zeros(runs, dtype=bool))
    first = np.zeros(runs, dtype=int)
    for question in range(1, questions + 1):
        evidence.add(draw.random(runs) >= share)
        first[(first == 0) & evidence.alarms(of)] = question
        if first.all():
            break
    return first


def measure(runs: int, questions: int) -> list[dict[str, Any]]:
    """One row for sound engines, and one for each fault."""
    alarmed = first_alarms(ASKED.least, questions, runs, 1) > 0
    rows: list[dict[str, Any]] = [{"share": ASKED.least, "sound": 0, "alarmed": float(alarmed.mean())}]
    for seed, (share, sound) in enumerate(((s, b) for b in SOUND_BEFORE for s in SHARES), 2):
        row: dict[str, Any] = {"share": share, "sound": sound}
        for level, of in (("alarm", ASKED.alpha), ("taken out", ASKED.alpha / CERTAIN)):
            after = first_alarms(share, 2000, min(runs, 2000), seed, sound, of)
            row["alarmed"] = float((after > 0).mean())
            row[level] = [float(np.quantile(after, q)) for q in (0.5, 0.95)]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateways", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=10_000)
    arguments = parser.parse_args()
    with Report("served_answers", "numpy", "scipy") as report:
        sound, *faults = measure(arguments.gateways, arguments.questions)
        title = f"{arguments.gateways:,} gateways; limit {ASKED.least:g}, risk {ASKED.alpha:g}"
        of = {"answers as recorded (%)": 100 * ASKED.least, "questions": arguments.questions}
        alarmed = {"ever alarmed (%)": 100 * sound["alarmed"]}
        report.row(f"Sound, exactly at the limit: {title}", {**of, **alarmed}, sound["alarmed"] > ASKED.alpha)
        for row in faults:
            words = {"answers as recorded (%)": 100 * row["share"], "good before": row["sound"]}
            after = {
                f"{level} after, {share}": found
                for level in ("alarm", "taken out")
                for share, found in zip(("median", "95 %"), row[level], strict=True)
            }
            report.row("Questions after which a fault is found", {**words, **after})


if __name__ == "__main__":
    main()
