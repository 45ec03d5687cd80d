"""Each kind of odd data is used rightly, or refused by name; and the document says what happens."""

from __future__ import annotations

import pytest

from stages.contract import Parent
from tests.stages.data.odd.case import Case
from tests.stages.data.odd.page import CASES, PAGE, outcomes, page


@pytest.fixture(scope="module")
def found(
    pico_base: Parent, tokenizer_read_once: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    return outcomes(pico_base, tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_each_kind_is_used_rightly_or_refused_by_name(case: Case, found: dict[str, str]) -> None:
    told = found[case.kind]
    assert told == case.expected if case.expected.startswith("used") else told.startswith(case.expected)


def test_the_document_is_what_happens(found: dict[str, str]) -> None:
    assert PAGE.read_text("utf-8") == page(found), "run: python -m tests.stages.data.odd.page"
