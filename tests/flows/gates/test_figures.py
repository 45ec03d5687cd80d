"""Rules on figures of all items together: F1, BLEU."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from flows.gates.gate import Decision, Evidence, decide
from flows.gates.other_base import asked_alike
from stages.statistics.corpus import value_of
from tests.flows.evaluation_files import Change, Results, Row
from tests.flows.gates.judging import evidence, rule

Counts = list[list[float]]


def figures(counts: Counts) -> Change:
    def change(results: Results, rows: list[Row]) -> None:
        summary = {"value": value_of("f1", counts), "low": 0, "high": 1, "n": len(rows)}
        summary |= {"figure": "f1", "counts": "fields"}
        results["tasks"]["heldout"]["metrics"]["fields_f1"] = summary
        for row, own in zip(rows, counts, strict=True):
            row["counts"] = {"fields": own}

    return change


def extracted(right: float, items: int = 300, seed: int = 0) -> Counts:
    """Six fields an item, each found with a chance of `right`."""
    draw = random.Random(seed)
    return [[sum(draw.random() < right for _ in range(6)), 6, 6] for _ in range(items)]


def of(folder: Path, counts: Counts, **given: Any) -> Evidence:
    return evidence(folder, [1.0] * len(counts), figures(counts), **given)


def judged(tmp_path: Path, role: str, margin: float, ours: Counts, theirs: Counts, **given: Any) -> Decision:
    policy = rule(role, margin, metric="fields_f1", scores="real")
    candidate, baseline = (of(tmp_path / name, c, **given) for name, c in (("a", ours), ("b", theirs)))
    return decide(policy, candidate, {"baseline": baseline})


def test_f1_of_all_items_is_judged_by_a_bootstrap(tmp_path: Path) -> None:
    better, worse = extracted(0.9), extracted(0.7, seed=1)
    won = judged(tmp_path / "won", "improve", 0.1, better, worse)
    lost = judged(tmp_path / "lost", "keep", 0.1, worse, better)
    assert (won.verdict, lost.verdict) == ("pass", "fail")
    found = won.rules[0]
    assert (found.method, found.n) == ("bootstrap", 300)
    assert found.effect == pytest.approx(value_of("f1", better) - value_of("f1", worse))
    assert found.low is not None
    assert found.high is not None
    assert 0.1 < found.low < found.effect < found.high < 0.3
    assert found == judged(tmp_path / "again", "improve", 0.1, better, worse).rules[0], "the seed is fixed"


def test_items_of_one_chat_are_drawn_together(tmp_path: Path) -> None:
    ours, theirs = (
        [c for c in extracted(p, 60, seed) for _ in range(5)] for p, seed in ((0.8, 2), (0.75, 3))
    )
    chats = [f"chat {i // 5}" for i in range(300)]
    alone = judged(tmp_path / "alone", "improve", 0.0, ours, theirs).rules[0]
    together = judged(tmp_path / "together", "improve", 0.0, ours, theirs, clusters=chats).rules[0]
    assert (together.clusters, together.effect) == (60, alone.effect)
    assert together.low < alone.low  # type: ignore[operator]


def test_too_few_items_that_differ_decide_nothing(tmp_path: Path) -> None:
    theirs = extracted(0.8)
    ours = [[6, 6, 6] if i < 19 else own for i, own in enumerate(theirs)]
    decision = judged(tmp_path, "keep", 0.5, ours, theirs)
    assert decision.verdict == "insufficient"
    assert "at least 20 must" in decision.rules[0].sentence


def test_a_figure_needs_a_rule_for_real_scores(tmp_path: Path) -> None:
    sides = [of(tmp_path / name, extracted(0.8)) for name in "ab"]
    decision = decide(rule("keep", 0.1, metric="fields_f1"), sides[0], {"baseline": sides[1]})
    assert decision.verdict == "invalid"
    assert "figure of all items together: set scores: real in the rule" in decision.rules[0].sentence


def test_one_side_without_counts_is_not_compared(tmp_path: Path) -> None:
    with_counts = of(tmp_path / "a", extracted(0.8))
    without = evidence(tmp_path / "b", {"fields_f1": [0.5] * 300})
    policy = rule("keep", 0.1, metric="fields_f1", scores="real")
    decision = decide(policy, with_counts, {"baseline": without})
    assert "from all items together on one side only" in decision.rules[0].sentence


def test_items_of_another_base_keep_their_counts(tmp_path: Path) -> None:
    def placed(prefix: str) -> Change:
        def change(results: Results, rows: list[Row]) -> None:
            figures(extracted(0.8))(results, rows)
            for i, row in enumerate(rows):
                row |= {
                    "document": i,
                    "item": prefix + row["item"],
                    "prompt_hash": prefix + row["prompt_hash"],
                }

        return change

    ours, theirs = (evidence(tmp_path / f"x{p}", [1.0] * 300, placed(p)) for p in ("", "other "))
    renamed = asked_alike(ours, theirs, "live").tasks["heldout"].together["fields_f1"]
    assert renamed.counts == ours.tasks["heldout"].together["fields_f1"].counts
