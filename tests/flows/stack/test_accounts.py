"""The stack's accounts: made once, and again where the registry does not know them any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.stack import accounts
from flows.stack.programs import Places
from registry import Registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """What the stack's commands change."""
    with Registry.open(tmp_path / "home") as registry:

        def tuneline(_environment: Mapping[str, str], group: str, verb: str, *words: str) -> Any:
            assert group == "users"
            if verb == "ls":
                return [user.model_dump(mode="json") for user in registry.users.ls()]
            if verb == "revoke":
                return registry.users.revoke(words[0], "stack")
            user, token = registry.users.add(words[0], words[2], "stack")
            return {"user": user.model_dump(mode="json"), "token": token}

        monkeypatch.setattr(accounts, "tuneline", tuneline)
        yield registry


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, 8720)


def role_of(registry: Registry, file: Path) -> str | None:
    user = registry.users.of_token(file.read_text().strip())
    return None if user is None else user.role


def test_they_are_made_once(registry: Registry, places: Places) -> None:
    admin = accounts.prepare(places, {})
    assert admin is not None
    assert role_of(registry, admin) == "admin"
    assert role_of(registry, places.alertmanager_token) == "operator"
    before = admin.read_text(), places.alertmanager_token.read_text()
    assert accounts.prepare(places, {}) == admin
    assert (admin.read_text(), places.alertmanager_token.read_text()) == before


def test_a_token_that_opens_nothing_is_made_anew(registry: Registry, places: Places) -> None:
    """Of a registry that was deleted, or by a hand that revoked it: alerts would be lost without a word."""
    accounts.prepare(places, {})
    registry.users.revoke(accounts.ALERTMANAGER, "ada")
    accounts.prepare(places, {})
    assert role_of(registry, places.alertmanager_token) == "operator"
    places.alertmanager_token.unlink()
    accounts.prepare(places, {})
    assert role_of(registry, places.alertmanager_token) == "operator"


def test_no_token_is_named_that_opens_nothing(registry: Registry, places: Places) -> None:
    accounts.prepare(places, {})
    registry.users.add("ada", "admin", "test")
    registry.users.revoke(accounts.ADMIN, "ada")
    assert accounts.prepare(places, {}) is None
