from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.dedupe import NearDuplicates, normalized, rows_per_band, shingles


def similarity(a: str, b: str) -> float:
    """By Python's own sets, as a reference."""
    one, two = (
        {tuple(words[k : k + 3]) for k in range(max(1, len(words) - 2))} for words in (a.split(), b.split())
    )
    return len(one & two) / len(one | two)


def duplicates(texts: list[str], threshold: float, scratch: Path) -> list[bool]:
    near = NearDuplicates(threshold, scratch)
    for text in texts:
        near.add([text])
    near.close()
    return [bool(value) for value in near.duplicates()]


def varied(seed: int, rows: int) -> list[str]:
    """Texts of 40 words, each second one an earlier text with up to six words changed."""
    draw = random.Random(seed)
    texts: list[list[str]] = []
    for _ in range(rows):
        words = [f"w{draw.randrange(500)}" for _ in range(40)]
        if texts and draw.random() < 0.5:
            words = list(draw.choice(texts))
            for _ in range(draw.randrange(7)):
                words[draw.randrange(40)] = f"w{draw.randrange(500)}"
        texts.append(words)
    return [" ".join(words) for words in texts]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95, 1.0])
def test_what_is_found_is_what_comparing_all_pairs_finds(tmp_path: Path, threshold: float) -> None:
    texts = varied(seed=3, rows=300)
    expected = [any(similarity(text, one) >= threshold for one in texts[:k]) for k, text in enumerate(texts)]
    found = duplicates(texts, threshold, tmp_path)
    assert sum(expected) > 20
    assert not [k for k in range(300) if found[k] and not expected[k]]
    missed = sum(1 for k in range(300) if expected[k] and not found[k])
    assert missed <= 0.02 * sum(expected)


def test_a_large_bucket_keeps_one(tmp_path: Path) -> None:
    assert duplicates(["the very same text again"] * 500, 0.85, tmp_path) == [False] + [True] * 499


def test_short_texts_are_one_shingle_and_differ_by_any_word(tmp_path: Path) -> None:
    assert [len(shingles([text])) for text in ("", "a", "a b", "a b c", "a b c d")] == [1, 1, 1, 1, 2]
    assert duplicates(["yes", "no", "yes sir", "sir yes", "yes"], 0.85, tmp_path) == [False] * 4 + [True]


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
