"""Users, their tokens and what is kept of each change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from registry import Artifact, Registry, Waiver
from registry.db import triggers
from registry.errors import AlreadyExists, Corrupt, InvalidArtifact, InvalidUser, NotFound
from tests.registry.backends import only

Publish = Callable[..., Artifact]


@only("local")
def test_a_token_opens_until_it_is_revoked(registry: Registry) -> None:
    assert not registry.users.exist()
    user, token = registry.users.add("ada@example.org", "admin", "root")
    assert registry.users.exist()
    assert registry.users.of_token(token) == user
    for wrong in (token[:-1], token[:-1] + ("A" if token[-1] != "A" else "B"), "", "tlu-", "\0", "é"):
        assert registry.users.of_token(wrong) is None
    with registry.database.read() as connection:
        kept = [str(tuple(row)) for row in connection.execute(text("SELECT * FROM user_tokens"))]
    assert token not in "".join(kept), "only a digest is kept"
    session = registry.sessions.begin(user.name)
    assert registry.sessions.user(session) == (True, user)
    assert registry.users.revoke(user.name, "root")
    assert not registry.users.revoke(user.name, "root"), "it was before"
    assert registry.users.of_token(token) is None
    assert registry.sessions.user(session) == (False, None)
    again, second = registry.users.add(user.name, "viewer", "root")
    assert (again.role, again.revoked) == ("viewer", None)
    assert registry.users.of_token(token) is None, "the old token stays revoked"
    assert registry.users.of_token(second) == again
    assert [(e.action, e.state["role"], len(e.state["tokens"])) for e in registry.users.audit()] == [
        ("add", "admin", 1),
        ("revoke", "admin", 0),
        ("add", "viewer", 1),
    ]


@only("local")
def test_a_user_of_a_provider(registry: Registry) -> None:
    ada = registry.users.of_identity("issuer#1", "ada", "viewer")
    assert ada is not None
    assert registry.users.of_identity("issuer#1", "renamed", "viewer") == ada
    promoted = registry.users.of_identity("issuer#1", "ada", "operator")
    assert promoted is not None
    assert (promoted.name, promoted.role) == ("ada", "operator")
    with pytest.raises(AlreadyExists, match="belongs to another user"):
        registry.users.of_identity("issuer#2", "ada", "admin")
    with pytest.raises(InvalidUser):
        registry.users.of_identity("issuer#3", "", "admin")
    registry.users.revoke("ada", "root")
    assert registry.users.of_identity("issuer#1", "ada", "admin") is None, "the provider does not undo it"
    with pytest.raises(InvalidUser, match="OpenID Connect"):
        registry.users.add("ada", "admin", "root")
    assert [event.action for event in registry.users.audit()] == ["add", "role", "revoke"]


@only("local")
def test_another_role_holds_at_once_and_is_in_the_log(registry: Registry) -> None:
    ada, token = registry.users.add("ada", "viewer", "root")
    session = registry.sessions.begin("ada")
    for _ in range(2):  # the second time changes nothing
        assert registry.users.change_role("ada", "operator", "root").role == "operator"
    user = registry.users.get("ada")
    assert user == ada.model_copy(update={"role": "operator"})
    assert registry.users.of_token(token) == user
    assert registry.sessions.user(session) == (True, user)
    assert [(e.action, e.state["role"]) for e in registry.users.audit()] == [
        ("add", "viewer"),
        ("role", "operator"),
    ]


@only("sqlite", "local")
def test_a_role_that_cannot_be_changed(registry: Registry) -> None:
    registry.users.add("ada", "admin", "root")
    registry.users.of_identity("issuer#1", "olga", "viewer")
    with pytest.raises(InvalidUser, match="expected one of viewer, operator, admin"):
        registry.users.change_role("ada", "owner", "root")
    with pytest.raises(NotFound, match="users ls"):
        registry.users.change_role("bob", "viewer", "root")
    with pytest.raises(InvalidUser, match="provider's claim"):
        registry.users.change_role("olga", "admin", "root")
    registry.users.revoke("ada", "root")
    with pytest.raises(InvalidUser, match="users add ada --role viewer"):
        registry.users.change_role("ada", "viewer", "root")
    assert [event.action for event in registry.users.audit()] == ["add", "add", "revoke"]


@only("sqlite", "local")
def test_bad_input_is_told_and_leaves_nothing(registry: Registry) -> None:
    registry.users.add("ada", "admin", "root")
    for name in ("", "-a", "a b", "a\n", "ä", "a" * 129, "../x", "<b>"):
        with pytest.raises(InvalidUser, match="valid user name"):
            registry.users.add(name, "viewer", "root")
    with pytest.raises(InvalidUser, match="expected one of viewer, operator, admin"):
        registry.users.add("bob", "owner", "root")
    with pytest.raises(AlreadyExists, match="revoke ada"):
        registry.users.add("ada", "viewer", "root")
    with pytest.raises(InvalidArtifact, match="empty"):
        registry.users.add("bob", "viewer", " ")
    with pytest.raises(NotFound, match="users ls"):
        registry.users.revoke("bob", "root")
    assert [user.name for user in registry.users.ls()] == ["ada"]


@only("local")
def test_the_database_itself_refuses_to_rewrite_users(registry: Registry) -> None:
    registry.users.add("ada", "viewer", "root")
    registry.webhooks.add("https://example.org", ["gate"], "root")
    registry.users.revoke("ada", "root")
    for statement in (
        "UPDATE users SET role = 'admin'",
        "UPDATE users SET revoked = NULL",
        "DELETE FROM users",
        "UPDATE user_tokens SET revoked = NULL",
        "DELETE FROM user_tokens",
        "UPDATE access_events SET who = 'x'",
        "DELETE FROM access_events",
        "UPDATE webhooks SET url = 'http://x', changes = changes + 1",
        "DELETE FROM webhooks",
    ):
        with pytest.raises(InvalidArtifact), registry.database.write() as connection:
            connection.execute(text(statement))


@only("sqlite", "local")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET role = 'admin'",
        "UPDATE user_tokens SET sha256 = printf('%064d', 1) WHERE revoked IS NULL",
        "UPDATE access_events SET who = 'x' WHERE number = 1",
        "DELETE FROM access_events WHERE number = 2",
    ],
)
def test_what_was_changed_past_the_triggers_shows(registry: Registry, statement: str) -> None:
    registry.users.add("ada", "viewer", "root")
    registry.users.revoke("ada", "root")
    registry.users.add("ada", "viewer", "root")
    assert len(registry.users.audit()) == 3
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.execute(text(statement))
    with pytest.raises(Corrupt):
        registry.users.audit()


@only("local")
def test_a_move_on_a_decision_says_who_made_it(registry: Registry, publish: Publish) -> None:
    first, second = (publish(registry, text).id for text in ("one", "two"))
    registry.channels.move("support/prod", first, 0, waiver=Waiver("first", "ada"))
    decision = registry.gates.record(second, first, {"rules": []}, "pass", {})
    registry.channels.move("support/prod", second, 1, decision, who="olga")
    assert [event.who for event in registry.channels.history("support/prod")] == ["ada", "olga"]
    with pytest.raises(InvalidArtifact, match="whoever moves the channel"):
        registry.channels.move("support/prod", first, 2, decision, who=" ")
