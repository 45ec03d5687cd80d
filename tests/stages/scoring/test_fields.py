"""Values of JSON answers, matched field by field."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config.metrics import FieldsMetric
from stages.errors import InvalidInput
from stages.scoring.fields import matched, values
from stages.scoring.scorer import Scorer


def counts(expected: Any, answer: Any, **settings: Any) -> dict[str, list[float]]:
    """Name of the counts → matched, predicted, expected."""
    reference = json.dumps(expected)
    scorer = Scorer([FieldsMetric(**settings)], [[reference]])
    said = answer if isinstance(answer, str) else json.dumps(answer)
    return {name: list(found) for name, found in scorer.score(said, [reference]).counts.items()}


def test_each_value_counts_once() -> None:
    order = {"name": "Ada", "items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 1}], "paid": True}
    said = {"name": "Ada", "items": [{"sku": "b", "n": 1}, {"sku": "a", "n": 3}], "rush": False}
    assert counts(order, said) == {
        "fields": [4, 6, 6],
        "fields[name]": [1, 1, 1],
        "fields[items.sku]": [2, 2, 2],
        "fields[items.n]": [1, 2, 2],
        "fields[paid]": [0, 0, 1],
    }


def test_lists_are_matched_by_the_best_assignment() -> None:
    """Taking the best partner for one after the other would match two values here, not three."""
    expected = [{"a": 1, "b": 1}, {"a": 1, "b": 2}]
    said = [{"a": 1, "b": 2}, {"a": 9, "b": 1}]
    assert counts(expected, said)["fields"] == [3, 4, 4]


@pytest.mark.parametrize("answer", ["no JSON", '{"a": 1} ', "[" * 50_000, "{}", "null", "[]", '{"b": 1}'])
def test_what_is_missing_is_expected_all_the_same(answer: str) -> None:
    right, _, expected = counts({"a": 1, "c": "x"}, answer)["fields"]
    assert expected == 2
    assert right == (1 if answer.strip() == '{"a": 1}' else 0)


def test_no_json_predicts_nothing() -> None:
    assert counts({"a": 1}, "a is 1")["fields"] == [0, 0, 1]


@pytest.mark.parametrize(
    ("expected", "said", "settings", "right"),
    [
        (1, 1.0, {}, 1),
        (1, True, {}, 0),
        (0, False, {}, 0),
        (None, None, {}, 1),
        (None, "null", {}, 0),
        (1, "1", {}, 0),
        ("Ada ", "Ada", {}, 1),
        ("Ada", "ada.", {}, 0),
        ("Ada", "ada.", {"text": "normalized"}, 1),
        (1.0, 1.1, {"tolerance": 0.1}, 1),
        (1.0, 1.11, {"tolerance": 0.1}, 0),
        (10**400, 10**400 + 1, {"tolerance": 0.5}, 0),
        ([], [], {}, 1),
        ({}, {}, {}, 1),
        ([], {}, {}, 0),
        ({}, [], {}, 0),
        ([1, 1], [1], {}, 1),
    ],
)
def test_when_two_values_are_equal(expected: Any, said: Any, settings: dict[str, Any], right: int) -> None:
    assert counts({"v": expected}, {"v": said}, **settings)["fields"][0] == right


def test_fields_can_be_chosen_and_one_holds_those_below_it() -> None:
    order = {"who": {"name": "Ada", "city": "London"}, "whole": 1}
    found = counts(order, {"who": {"name": "Ada"}}, fields=["who"])
    assert found == {"fields": [1, 1, 3], "fields[who]": [1, 1, 2]}


def test_a_field_that_is_nowhere_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"has the field 'naem'; did you mean 'name'\?"):
        counts({"name": 1}, {}, fields=["naem"])


def test_an_expected_answer_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"row 1 of the split is not JSON: 'no'"):
        Scorer([FieldsMetric()], [["{}"], ["no"]])


def test_the_best_of_several_references_counts() -> None:
    references = ['{"a": 1, "b": 2}', '{"a": 1}']
    found = Scorer([FieldsMetric()], [references]).score('{"a": 1}', references)
    assert list(found.counts["fields"]) == [1, 1, 1]


def test_many_fields_are_not_reported_one_by_one() -> None:
    assert list(counts({f"k{i}": i for i in range(33)}, {})) == ["fields"]


JSON = st.recursive(
    st.sampled_from([None, True, 1, 2, "a", "b"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("xyz"), part, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_matches_are_no_more_than_either_side_has(one: Any, other: Any) -> None:
    def same(a: Any, b: Any) -> bool:
        return type(a) is type(b) and a == b

    found = matched(one, other, same)
    assert all(n <= min(values(one)[path], values(other)[path]) for path, n in found.items())
    assert found == matched(other, one, same) or found.total() == matched(other, one, same).total()
    assert matched(one, one, same) == values(one)


@given(st.lists(JSON, min_size=1, max_size=4), st.lists(JSON, min_size=1, max_size=4))
def test_no_pairing_of_a_list_matches_more(one: list[Any], other: list[Any]) -> None:
    def same(a: Any, b: Any) -> bool:
        return type(a) is type(b) and a == b

    short, long = sorted((one, other), key=len)
    best = max(
        sum(matched(a, b, same).total() for a, b in zip(short, order, strict=True))
        for order in itertools.permutations(long, len(short))
    )
    assert matched(one, other, same).total() == best
