"""The drill of three batches without its hour: what arrives, what is found by content, and its picture."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reliability.batches import plan
from tests.reliability.batches.picture import picture


def test_no_label_of_the_poisoned_batch_is_right_and_what_comes_again_is() -> None:
    batches = plan.days()
    right = {row["prompt"]: row["completion"] for row in plan.corpus(plan.EARLY)}
    poisoned = batches["tuesday"]
    assert len(poisoned) > len(batches["monday"]), "fewer are outvoted by the rows before"
    assert not [row for row in poisoned if right[row["prompt"]] == row["completion"]]
    again = [row for row in batches["wednesday"] if row["prompt"] in {row["prompt"] for row in poisoned}]
    assert again
    assert all(right[row["prompt"]] == row["completion"] for row in again)


def test_a_day_without_a_curve_is_no_picture() -> None:
    day: dict[str, Any] = {"name": "Monday", "state": "failed", "history": [], "rules": []}
    with pytest.raises(ValueError, match="Monday: no validation_loss in its history"):
        picture([day])
