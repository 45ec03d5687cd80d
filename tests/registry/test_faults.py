"""Failing disks and object stores at a reduced size; tests/reliability/faults.py tries every call."""

from __future__ import annotations

import pytest

from tests.registry.places import Places, only
from tests.reliability import faults


@only("sqlite")
def test_the_order_of_a_publication_and_that_a_wrong_one_is_noticed(places: Places) -> None:
    found = faults.order(places)
    assert found["wrong"] == []
    assert found["wrong orders noticed"] == 4


@only("sqlite", "local")
def test_a_failing_disk(places: Places) -> None:
    found = faults.every_fault(places, "local", stride=9)
    assert found["wrong"] == []
    assert found["faults"] >= 16


@only("sqlite", "s3")
def test_a_failing_object_store(places: Places) -> None:
    found = faults.every_fault(places, "s3")
    assert found["wrong"] == []
    assert found["at"].keys() >= {"request: put_object", "answer: put_object, answer lost"}


def test_a_small_disk() -> None:
    found = faults.small_disk(steps=4)
    assert found["wrong"] == []
    if "mounting" in found:
        pytest.skip("mounting a small file system in a namespace is not allowed here")
    assert found["disks filled"] == 4
