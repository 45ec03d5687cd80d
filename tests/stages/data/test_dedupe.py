from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data import dedupe
from stages.data.dedupe import NearDuplicates, normalized, rows_per_band, shared_by_many, shingles

Row = tuple[str, str]  # asked, answered


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[k : k + 3]) for k in range(max(1, len(words) - 2))}


def expected(rows: list[Row], threshold: float) -> list[bool]:
    """By Python's own sets, comparing all pairs, as a reference."""
    known = [[grams(text) for text in row] for row in rows]
    seen = [Counter(gram for row in known for gram in row[part]) for part in (0, 1)]

    def alike(one: set[Any], two: set[Any], counts: Counter[Any]) -> float:
        framed = {gram for gram in one & two if counts[gram] >= 5}
        either = (one | two) - framed
        return len((one & two) - framed) / len(either) if either else 1.0

    return [
        any(min(map(alike, row, other, seen)) >= threshold for other in known[:k])
        for k, row in enumerate(known)
    ]


def duplicates(rows: list[Row], threshold: float, scratch: Path) -> list[bool]:
    near = NearDuplicates(threshold, scratch)
    for asked, answered in rows:
        near.add([asked], [answered])
    near.close()
    return [bool(value) for value in near.duplicates()]


def varied(seed: int, rows: int) -> list[Row]:
    """Rows of 40 words, each second one an earlier row with up to six words changed; half share a frame."""
    draw = random.Random(seed)
    texts: list[list[str]] = []
    for _ in range(rows):
        words = [f"w{draw.randrange(500)}" for _ in range(40)]
        if texts and draw.random() < 0.5:
            words = list(draw.choice(texts))
            for _ in range(draw.randrange(7)):
                words[draw.randrange(40)] = f"w{draw.randrange(500)}"
        texts.append(words)
    frame = " ".join(f"rule {k} says {k * k}" for k in range(30))
    return [
        (f"{frame if k % 2 else ''} {' '.join(words[:25])}", " ".join(words[25:]))
        for k, words in enumerate(texts)
    ]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95, 1.0])
def test_what_is_found_is_what_comparing_all_pairs_finds(tmp_path: Path, threshold: float) -> None:
    rows = varied(seed=3, rows=300)
    right = expected(rows, threshold)
    found = duplicates(rows, threshold, tmp_path)
    assert sum(right) > 8
    assert not [k for k in range(300) if found[k] and not right[k]]
    missed = sum(1 for k in range(300) if right[k] and not found[k])
    assert missed <= 0.02 * sum(right)


def test_a_large_bucket_keeps_one(tmp_path: Path) -> None:
    rows = [("the very same question again", "the very same answer again")] * 500
    assert duplicates(rows, 0.85, tmp_path) == [False] + [True] * 499


LONG = " ".join(f"rule {k} is that matter {k} has label {k}." for k in range(60))


@pytest.mark.parametrize("count", [5, 100])
def test_what_many_rows_share_is_no_likeness(tmp_path: Path, count: int) -> None:
    """A long instruction and a few words of one's own: also where the answers repeat."""
    rows = [(f"{LONG} My lamp number {k} is broken", f"label {k % 3}") for k in range(count)]
    assert duplicates(rows, 0.85, tmp_path) == [False] * count
    # Case and white space are no difference, whatever else is shared.
    assert duplicates([*rows, (rows[2][0].upper(), f"  {rows[2][1]}")], 0.85, tmp_path) == [False] * count + [
        True
    ]


def test_what_differs_counts_also_where_it_is_part_of_a_frame(tmp_path: Path) -> None:
    """Each colour and each size stands in ten rows and so in a frame; no row is another's duplicate."""
    rows = [(f"{LONG} the colour is {c} and the size is {s} now", "ok") for c in range(10) for s in range(10)]
    assert duplicates(rows, 0.5, tmp_path) == [False] * 100


def test_one_question_with_two_answers_stays_twice(tmp_path: Path) -> None:
    assert duplicates([(LONG, "yes"), (LONG, "no"), (LONG + " please", "yes")], 0.85, tmp_path) == [
        False, False, True,
    ]  # fmt: skip
    assert duplicates([("yes", LONG), ("no", LONG)], 0.85, tmp_path) == [False, False]


def test_counting_in_parts_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    values = draw.integers(0, 2**64, 300, dtype=np.uint64)[draw.integers(0, 300, 2000)]
    whole = shared_by_many(values)
    distinct, counts = np.unique(values, return_counts=True)
    assert whole.tolist() == distinct[counts >= 5].tolist()
    monkeypatch.setattr(dedupe, "_COUNTED", 64)
    assert shared_by_many(values).tolist() == whole.tolist()


def test_short_texts_are_one_shingle_and_differ_by_any_word(tmp_path: Path) -> None:
    assert [len(shingles([text])) for text in ("", "a", "a b", "a b c", "a b c d")] == [1, 1, 1, 1, 2]
    rows = [(text, "x") for text in ("yes", "no", "yes sir", "sir yes", "yes")]
    assert duplicates(rows, 0.85, tmp_path) == [False] * 4 + [True]


def test_prompt_and_answer_do_not_run_together() -> None:
    assert not np.array_equal(shingles(["a b", "c d"]), shingles(["a b c", "d"]))


@settings(database=None)
@given(st.text())
def test_normalizing_twice_changes_nothing_and_case_and_space_do_not_matter(text: str) -> None:
    once = normalized(text)
    assert normalized(f"  {once}\n") == normalized(once)
    assert normalized("  Straße\tA ") == normalized("STRASSE a")


@settings(database=None)
@given(st.floats(0.05, 1.0))
def test_bands_find_a_pair_at_the_threshold(threshold: float) -> None:
    width = rows_per_band(threshold)
    assert 128 % width == 0
    assert width == 1 or 1 - (1 - threshold**width) ** (128 // width) >= 0.99
