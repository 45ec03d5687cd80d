"""Texts compared as texts: what counts as equal, as contained, as the same number."""

from __future__ import annotations

from decimal import Decimal

import pytest

from stages.config.metrics import ContainsMetric, LengthMetric, NormalizedMetric, NumberMetric, RegexMetric
from stages.errors import InvalidInput
from stages.scoring.scorer import Scorer
from stages.scoring.text import contains, normalized, number_in


def score(metric: object, answer: str, *references: str) -> dict[str, float]:
    scorer = Scorer([metric], [references])  # type: ignore[list-item]
    return dict(scorer.score(answer, references).scores)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  ANSWER\n is: forty-two! ", "the answer is forty two"),
        ("It's 3.5 at 12:30.", "its 3.5 at 12:30"),
        ("U.S.A.", "usa"),
        ("-3 and 5-3", "-3 and 5-3"),
        ("\u22123", "-3"),
        ("Stra\N{LATIN SMALL LETTER SHARP S}e \N{FULLWIDTH DIGIT ONE}", "strasse 1"),
        ("$5 + 10%", "$5 + 10"),
        ("«да»", "да"),
        ("", ""),
    ],
)
def test_normalization(text: str, expected: str) -> None:
    assert normalized(text) == expected
    assert normalized(expected) == expected


def test_normalized_answers_are_equal() -> None:
    assert score(NormalizedMetric(), " Yes, please! ", "yes please") == {"normalized_match": 1.0}
    assert score(NormalizedMetric(), "no", "yes", "No.") == {"normalized_match": 1.0}, "any reference will do"
    assert score(NormalizedMetric(), "3.5", "35") == {"normalized_match": 0.0}


@pytest.mark.parametrize(
    ("text", "part", "found"),
    [
        ("a party", "art", False),
        ("the art of", "art", True),
        ("partly art", "art", True),
        ("15 apples", "5", False),
        ("我住在北京市", "北京", True),
        ("anything", "", False),
    ],
)
def test_what_is_contained_is_whole_words(text: str, part: str, found: bool) -> None:
    assert contains(text, part) is found


def test_contains() -> None:
    assert score(ContainsMetric(), "It is Paris, of course.", "paris") == {"contains": 1.0}
    assert score(ContainsMetric(normalize=False), "It is Paris.", "paris") == {"contains": 0.0}
    thanks = ContainsMetric(name="thanks", text="Thank you")
    assert score(thanks, "thank you, bye", "whatever") == {"thanks": 1.0}
    with pytest.raises(InvalidInput, match=r"metric contains: nothing is left of the text '!!' when"):
        score(ContainsMetric(text="!!"), "x", "y")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 42.", "42"),
        ("from 3 to 1,234,567.5 kg", "1234567.5"),
        ("-7", "-7"),
        ("pages 3-5", "5"),
        ("v2 at 6e-3", "0.006"),
        ("10 000 of 1\u202f000", "1000"),
        ("$5", "5"),
        ("1,2,3", "3"),
        ("none", None),
        ("1e9999", "1"),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    assert number_in(text) == (None if number is None else Decimal(number))


def test_numbers_are_equal_up_to_a_tolerance() -> None:
    assert score(NumberMetric(), "The total is 1,000.0", "1000") == {"number": 1.0}
    assert score(NumberMetric(absolute=0.1), "1.1", "1.0") == {"number": 1.0}, "in decimals, not in floats"
    assert score(NumberMetric(absolute=0.1), "1.11", "1.0") == {"number": 0.0}
    assert score(NumberMetric(relative=0.01), "198", "200") == {"number": 1.0}
    assert score(NumberMetric(relative=0.01), "197", "200") == {"number": 0.0}
    assert score(NumberMetric(take="first"), "7 of 9", "7 of 8") == {"number": 1.0}
    assert score(NumberMetric(), "no idea", "7") == {"number": 0.0}


def test_an_expected_answer_without_a_number_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"metric number: .* row 1 .* has no number: 'two'"):
        Scorer([NumberMetric()], [["1"], ["two"]])


def test_lengths_and_their_bounds() -> None:
    assert score(LengthMetric(), "one two  three", "x") == {"length": 3.0}
    bounded = LengthMetric(name="size", unit="characters", at_least=2, at_most=3)
    assert [score(bounded, text, "x")["size_kept"] for text in ("a", "ab", "abc", "abcd")] == [0, 1, 1, 0]
    assert Scorer([bounded], [["x"]]).units == {"size": "characters", "size_kept": "share"}


def test_a_pattern_is_found() -> None:
    order = RegexMetric(name="order", pattern=r"^order #\d{4}$")
    assert score(order, "order #1234", "x") == {"order": 1.0}
    assert score(order, "order #12345", "x") == {"order": 0.0}


def test_a_pattern_that_backtracks_elsewhere_takes_linear_time() -> None:
    bomb = RegexMetric(pattern=r"^(a+)+$")
    assert score(bomb, "a" * 100_000 + "!", "x") == {"regex": 0.0}


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "(?:a{1000}){1000}{1000}"])
def test_a_pattern_that_cannot_be_searched_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is not a pattern that is searched in linear time"):
        RegexMetric(pattern=pattern)
