"""The screens of users and webhooks: for admins only, and what they refuse."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.testclient import TestClient

from flows.ui.access.access import Access
from flows.ui.app import application
from registry import Registry
from registry.db import triggers
from registry.outbox import EVENTS
from tests.flows.ui.access.attempts import form_token, sign_in

PATHS = ("/users", "/users/ada", "/webhooks", "/webhooks/{id}")


@pytest.fixture
def app(registry: Registry) -> Starlette:
    return application(registry, Access(registry, link_token="link"))


@pytest.fixture
def admin(app: Starlette, registry: Registry) -> TestClient:
    browser, form = sign_in(app, registry, "ada", "admin")
    browser.headers["X-CSRF-Token"] = form
    return browser


def test_only_admins_see_them(app: Starlette, registry: Registry, admin: TestClient) -> None:
    webhook, _ = registry.webhooks.add("https://example.org/s3cret", ["gate"], "test")
    paths = [path.format(id=webhook.id) for path in PATHS]
    for role in ("viewer", "operator"):
        other, _ = sign_in(app, registry, f"an-{role}", role)
        for path in paths:
            answer = other.get(path)
            assert (answer.status_code, "s3cret" in answer.text) == (403, False)
        assert 'href="/users"' not in other.get("/").text
    for path in paths:
        assert admin.get(path).status_code == 200
    assert 'href="/users"' in admin.get("/").text


def test_nobody_locks_themselves_out(registry: Registry, admin: TestClient) -> None:
    assert "This is you" in admin.get("/users/ada").text
    for change, form in (("role", {"role": "viewer"}), ("revoke", {"sure": "yes"})):
        answer = admin.post(f"/users/ada/{change}", data=form)
        assert (answer.status_code, "another admin can do this" in answer.text) == (409, True)
    assert registry.users.get("ada").role == "admin"


def test_what_they_refuse_leaves_nothing(registry: Registry, admin: TestClient) -> None:
    for path, form, says in (
        ("/users", {"name": "a b", "role": "viewer"}, "valid user name"),
        ("/users", {"name": "bob"}, "expected one of"),
        ("/users", {"name": "ada", "role": "admin"}, "exists"),
        ("/users/bob/role", {"role": "viewer"}, "no user"),
        ("/users/bob/revoke", {"sure": "yes"}, "no user"),
        ("/webhooks", {"url": "https://example.org"}, "events none"),
        ("/webhooks", {"url": "ftp://example.org", "event-gate": "on"}, "http"),
        ("/webhooks", {"url": "http://127.0.0.1/x", "event-gate": "on"}, "127.0.0.1"),
        ("/webhooks/x/test", {"sure": "yes"}, "no webhook"),
        ("/webhooks/x/remove", {"sure": "yes"}, "no webhook"),
    ):
        answer = admin.post(path, data=form)
        assert answer.status_code in (404, 409)
        assert says in answer.text, path
    assert (len(registry.users.audit()), registry.webhooks.ls()) == (1, [])


def test_the_first_account_ends_the_link(app: Starlette, registry: Registry) -> None:
    owner = TestClient(app, "http://localhost:8710", follow_redirects=False)
    assert owner.get("/signin/link?token=link").status_code == 303
    form = {"csrf": form_token(owner.get("/users")), "name": "ada", "role": "admin"}
    answer = owner.post("/users", data=form)
    assert answer.status_code == 200
    assert "the link that you came with is over" in answer.text
    (token,) = set(re.findall(r"tlu-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", answer.text))
    assert registry.users.of_token(token) is not None
    assert owner.get("/users").headers["location"] == "/signin?next=/users"


def test_a_user_changed_past_the_log_shows_and_can_be_revoked(registry: Registry, admin: TestClient) -> None:
    registry.users.add("eve", "viewer", "test")
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.execute(text("UPDATE users SET role = 'admin' WHERE name = 'eve'"))
    page = admin.get("/users/eve")
    assert (page.status_code, "changed without an event" in page.text) == (200, True)
    assert admin.post("/users/eve/revoke", data={"sure": "yes"}).status_code == 303
    assert registry.users.get("eve").revoked is not None


def test_a_delivery_that_waits_says_when_it_is_tried_again(registry: Registry, admin: TestClient) -> None:
    webhook, _ = registry.webhooks.add("https://example.org", ["gate"], "test")
    assert (
        admin.post(f"/webhooks/{webhook.id}/test", data={"sure": "yes"}).headers["location"]
        == f"/webhooks/{webhook.id}"
    )
    (claimed,) = registry.webhooks.claim(60, 10)
    registry.webhooks.settle(claimed, 500, "expected a 2xx answer, got <500>", 4e9)
    for path in ("/webhooks", f"/webhooks/{webhook.id}"):
        page = admin.get(path).text
        assert "got &lt;500&gt;" in page
        assert "again <time" in page


def test_the_first_account_is_an_admins(app: Starlette, registry: Registry) -> None:
    owner = TestClient(app, "http://localhost:8710", follow_redirects=False)
    assert owner.get("/signin/link?token=link").status_code == 303
    form = {"csrf": form_token(owner.get("/users")), "name": "ada", "role": "viewer"}
    answer = owner.post("/users", data=form)
    assert (answer.status_code, "has to be an admin" in answer.text) == (409, True)
    assert registry.users.ls() == []
    assert owner.get("/users").status_code == 200


def test_every_event_can_be_asked_for_and_is_shown_in_words(registry: Registry, admin: TestClient) -> None:
    webhook, _ = registry.webhooks.add("https://example.org", EVENTS, "test")
    form, page = admin.get("/webhooks").text, admin.get(f"/webhooks/{webhook.id}")
    assert page.status_code == 200
    for event in EVENTS:
        assert f'name="event-{event}"' in form
        assert f"<li>{event}: " in page.text
