"""Every change that an application accepts, attempted by those who must not make it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from httpx import Response
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from registry import Registry
from registry.access.users import Role
from registry.db.tables import metadata

HOST = "http://localhost:8710"
FOR_EVERYONE = ("/signin", "/signout", "/health")
"""What a viewer may ask for: it changes who asks, or has the machine looked at again."""


class Attempt(NamedTuple):
    """A change that was asked for, and what came of it."""

    path: str
    by: str
    status: int


def changes(app: Starlette) -> list[str]:
    """The path of every route that accepts POST, with something in place of its parameters."""
    routes = [route for route in app.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    return [re.sub(r"\{[^}]*\}", "x", route.path) for route in routes]


def sign_in(app: Starlette, registry: Registry, name: str, role: Role) -> tuple[TestClient, str]:
    """The browser of a new user who has signed in with a token, and the token of its forms."""
    _, token = registry.users.add(name, role, "test")
    browser = TestClient(app, base_url=HOST, follow_redirects=False)
    form = {"csrf": form_token(browser.get("/signin")), "token": token}
    assert browser.post("/signin", data=form).status_code == 303
    return browser, session_form_token(registry, browser)


def form_token(page: Response) -> str:
    """The form token that a page holds."""
    match = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
    assert match is not None, page.text
    return match[1]


def session_form_token(registry: Registry, browser: TestClient) -> str:
    """What the forms of this browser's session send along."""
    cookie = next(value for name, value in browser.cookies.items() if "_session_" in name)
    return registry.sessions.signature("form", cookie.rpartition(".")[0])


def attempts(app: Starlette, registry: Registry) -> Iterator[Attempt]:
    """Each change of `app` by a viewer, with a stale form token, from another origin, by a revoked user.

    The last three have the role admin, and all but the second a form token that is right.
    """
    viewer, its_form = sign_in(app, registry, "a-viewer", "viewer")
    admin, form = sign_in(app, registry, "an-admin", "admin")
    revoked, old_form = sign_in(app, registry, "a-revoked-admin", "admin")
    _, stale = sign_in(app, registry, "another-admin", "admin")
    registry.users.revoke("a-revoked-admin", "test")
    for path in changes(app):
        if path not in FOR_EVERYONE:
            yield Attempt(path, "viewer", viewer.post(path, data={"csrf": its_form}).status_code)
        if path != "/signin":  # which has a form of its own, before there is a session
            yield Attempt(path, "revoked", revoked.post(path, data={"csrf": old_form}).status_code)
        for by, data in (("stale", {"csrf": stale}), ("none", {"csrf": ""}), ("missing", {})):
            yield Attempt(path, by, admin.post(path, data=data).status_code)
        for name, value in (
            ("Origin", "http://elsewhere.example"),
            ("Origin", "http://localhost:8711"),
            ("Origin", "null"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ):
            answer = admin.post(path, data={"csrf": form}, headers={name: value})
            yield Attempt(path, f"{name} {value}", answer.status_code)


def assert_all_refused(app: Starlette, registry: Registry) -> int:
    """That none of them gets through, nor leaves anything in the database; returns how many there were."""
    before = contents(registry)
    made = list(attempts(app, registry))
    passed = [one for one in made if one.status not in (401, 403)]
    assert passed == [], passed
    after = contents(registry)
    added = {table: after[table] - before[table] for table in after if after[table] != before[table]}
    added.pop("cookie_key", None)
    assert added == {"users": 4, "user_tokens": 4, "access_events": 5, "sign_ins": 3}
    return len(made)


def contents(registry: Registry) -> dict[str, int]:
    """How many rows each table has."""
    with registry.database.read() as connection:
        return {
            table.name: connection.execute(text(f"SELECT count(*) FROM {table.name}")).scalar_one()
            for table in metadata.sorted_tables
        }
