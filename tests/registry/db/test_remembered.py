"""A reading is shown again only while nobody has committed; on PostgreSQL never."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from registry import Registry
from registry.db import remembered
from registry.db.remembered import Remembered
from tests.registry.backends import Backend, only


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts its calls. Nothing gets too old meanwhile."""
    monkeypatch.setattr(remembered, "OLDEST", 1000.0)
    calls = iter(range(1, 100))
    return lambda: next(calls)


def test_another_process_sees_no_old_account(registry: Registry, backend: Backend) -> None:
    asked = Remembered(registry.database)
    assert asked.get("accounts", registry.users.exist) is False
    with backend.open() as other:
        other.users.add("ada", "admin", "root")
    assert asked.get("accounts", registry.users.exist) is True


@only("sqlite", "local")
def test_a_reading_is_kept_until_somebody_commits(
    registry: Registry, backend: Backend, count: Callable[[], int]
) -> None:
    asked = Remembered(registry.database)
    assert [asked.get("a", count), asked.get("a", count), asked.get("b", count)] == [1, 1, 2]
    registry.users.add("ada", "admin", "root")
    assert asked.get("a", count) == 3, "this process committed"
    with backend.open() as other:
        assert asked.get("a", count) == 3, "a reader opened the registry"
        other.users.revoke("ada", "root")
    assert asked.get("a", count) == 4, "another connection committed"


@only("sqlite", "local")
def test_a_reading_gets_too_old(
    registry: Registry, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Remembered(registry.database)
    assert [asked.get("a", count), asked.get("a", count)] == [1, 1]
    monkeypatch.setattr(remembered, "OLDEST", 0.0)
    assert asked.get("a", count) == 2


@only("sqlite", "local")
def test_an_error_is_not_kept(registry: Registry, count: Callable[[], int]) -> None:
    asked = Remembered(registry.database)
    with pytest.raises(ZeroDivisionError):
        asked.get("a", lambda: count() // 0)
    assert asked.get("a", count) == 2


@only("postgresql", "local")
def test_postgresql_is_asked_each_time(registry: Registry, count: Callable[[], int]) -> None:
    asked = Remembered(registry.database)
    assert [asked.get("a", count), asked.get("a", count)] == [1, 2]
