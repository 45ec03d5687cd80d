"""Failing disks and object stores at a reduced size; tests/reliability/faults.py tries every call."""

from __future__ import annotations

import pytest

from tests.registry.backends import Backends, only
from tests.reliability import faults


@only("sqlite")
def test_the_order_of_a_publication_and_that_a_wrong_one_is_noticed(new_backend: Backends) -> None:
    found = faults.order(new_backend)
    assert found["wrong"] == []
    assert found["wrong orders noticed"] == 4


@only("sqlite", "local")
def test_a_failing_disk(new_backend: Backends) -> None:
    found = faults.every_fault(new_backend, "local", stride=9)
    assert found["wrong"] == []
    assert found["faults"] >= 16


@only("sqlite", "s3")
def test_a_failing_object_store(new_backend: Backends) -> None:
    found = faults.every_fault(new_backend, "s3")
    assert found["wrong"] == []
    assert found["at"].keys() >= {"request: put_object", "answer: put_object, answer lost"}


def test_a_small_disk() -> None:
    found = faults.small_disk(steps=4)
    assert found["wrong"] == []
    if "mounting" in found:
        pytest.skip("mounting a small file system in a namespace is not allowed here")
    assert found["disks filled"] == 4
