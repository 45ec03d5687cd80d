"""The drill of three batches without its hour: what arrives, what is found by content, and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.reliability.batches import plan
from tests.reliability.batches.picture import picture

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def test_no_label_of_the_poisoned_batch_is_right_and_what_comes_again_is() -> None:
    batches = plan.days()
    right = {row["prompt"]: row["completion"] for row in plan.corpus(plan.EARLY)}
    poisoned = batches["tuesday"]
    assert len(poisoned) > len(batches["monday"]), "fewer are outvoted by the rows before"
    assert not [row for row in poisoned if right[row["prompt"]] == row["completion"]]
    again = [row for row in batches["wednesday"] if row["prompt"] in {row["prompt"] for row in poisoned}]
    assert again
    assert all(right[row["prompt"]] == row["completion"] for row in again)


def test_the_picture_in_the_documents_is_that_of_the_drills_own_figures() -> None:
    days = json.loads((IMAGES / "retraining-batches.json").read_text())["days"]
    drawn = (IMAGES / "retraining-batches.svg").read_text("utf-8")
    assert drawn == picture(days)
    assert len(drawn) < 200_000
    document = ElementTree.fromstring(drawn)
    rules = list(document.iter("{http://www.w3.org/2000/svg}g"))
    assert len(rules) == sum(len(day["rules"]) for day in days)


def test_a_day_without_a_curve_is_no_picture() -> None:
    day: dict[str, Any] = {"name": "Monday", "state": "failed", "history": [], "rules": []}
    with pytest.raises(ValueError, match="Monday: no validation_loss in its history"):
        picture([day])
