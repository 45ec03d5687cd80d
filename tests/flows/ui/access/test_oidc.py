"""Signing in through a real OpenID provider on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from flows.errors import Usage
from flows.settings import Settings
from flows.ui.access.oidc import OidcSettings
from registry import Registry
from tests.flows.ui.access.attempts import HOST
from tests.flows.ui.access.conftest import Make

CLIENT_ID, CLIENT_SECRET = "tuneline", "a-secret-of-the-client"
"""As `provider.py` has them."""
CALLBACK = f"{HOST}/signin/oidc/callback"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("provider")
    command = [sys.executable, str(Path(__file__).with_name("provider.py")), str(folder), CALLBACK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the provider did not start"
            yield address
        finally:
            process.kill()


@pytest.fixture
def settings(issuer: str) -> OidcSettings:
    roles = {"ml-ops": "operator", "nobody": "admin"}
    return OidcSettings(issuer, CLIENT_ID, CLIENT_SECRET, "groups", roles)  # type: ignore[arg-type]


@pytest.fixture
def ours(make: Make, settings: OidcSettings) -> TestClient:
    return TestClient(make(oidc=settings), base_url=HOST, follow_redirects=False)


def authorized(start: str, name: str) -> str:
    """Where the provider sends a browser back to, once `name` has signed in there."""
    with httpx.Client(follow_redirects=False, trust_env=False) as browser:
        answer = browser.get(start)
        assert answer.status_code == 302, answer.text
        login = str(answer.url.join(answer.headers["location"]))
        page = browser.get(login)
        csrf = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert csrf is not None, page.text
        form = {"csrfmiddlewaretoken": csrf[1], "username": name, "password": name}
        answer = browser.post(login, data=form)
        answer = browser.get(str(answer.url.join(answer.headers["location"])))
        return str(answer.headers["location"])


def test_a_person_of_the_right_group_gets_in(ours: TestClient, registry: Registry, issuer: str) -> None:
    assert urlsplit(issuer).netloc in ours.get("/signin").text
    start = ours.get("/signin/oidc?next=/runs/7")
    query = parse_qs(urlsplit(start.headers["location"]).query)
    assert query["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= set(query)
    back = authorized(start.headers["location"], "ada")
    assert back.startswith(CALLBACK)
    answer = ours.get(back)
    assert (answer.status_code, answer.headers.get("location")) == (303, "/runs/7"), answer.text
    who = ours.get("/").json()
    assert (who["name"], who["kind"], who["may"]) == ("ada", "account", ["viewer", "operator"])
    assert ours.post("/move/x", data={"csrf": who["csrf"]}).status_code == 200
    assert [event.who for event in registry.users.audit()] == ["OpenID Connect"]
    registry.users.revoke("ada", "root")
    assert ours.get("/").status_code == 303
    again = ours.get(authorized(ours.get("/signin/oidc").headers["location"], "ada"))
    assert (again.status_code, "revoked" in again.text) == (403, True)


def test_a_person_of_no_such_group_is_told_why_not(ours: TestClient, registry: Registry) -> None:
    answer = ours.get(authorized(ours.get("/signin/oidc").headers["location"], "mallory"))
    assert answer.status_code == 403
    assert "TUNELINE_OIDC_ROLES" in answer.text
    assert registry.users.ls() == []
    assert ours.get("/").status_code == 303


def test_an_answer_that_this_browser_did_not_ask_for_is_refused(
    ours: TestClient, make: Make, settings: OidcSettings, registry: Registry
) -> None:
    back = authorized(ours.get("/signin/oidc").headers["location"], "ada")
    victim = TestClient(make(oidc=settings), base_url=HOST, follow_redirects=False)
    assert victim.get(back).status_code == 403, "no sign-in was begun here"
    victim.get("/signin/oidc")
    assert victim.get(back).status_code == 403, "the state is of another sign-in"
    assert ours.get(re.sub("code=[^&]*", "code=wrong", back)).status_code == 403
    assert ours.get(f"{CALLBACK}?error=access_denied&state=x").status_code == 403
    assert registry.users.ls() == []


def test_a_code_opens_once(ours: TestClient, registry: Registry) -> None:
    back = authorized(ours.get("/signin/oidc").headers["location"], "ada")
    kept = dict(ours.cookies)
    assert ours.get(back).status_code == 303
    ours.cookies.clear()
    ours.cookies.update(kept)
    assert ours.get(back).status_code == 403


def test_a_wrong_secret_and_another_issuer_are_refused(
    make: Make, settings: OidcSettings, registry: Registry
) -> None:
    wrong = TestClient(
        make(oidc=replace(settings, client_secret="no")), base_url=HOST, follow_redirects=False
    )
    assert wrong.get(authorized(wrong.get("/signin/oidc").headers["location"], "ada")).status_code == 403
    other = replace(settings, issuer=settings.issuer + "/")
    answer = TestClient(make(oidc=other), base_url=HOST, follow_redirects=False).get("/signin/oidc")
    assert answer.status_code == 502
    gone = replace(settings, issuer="http://127.0.0.1:9/o")
    answer = TestClient(make(oidc=gone), base_url=HOST, follow_redirects=False).get("/signin/oidc")
    assert (answer.status_code, "cannot be reached" in answer.text) == (502, True)


def test_with_a_provider_there_is_no_link(make: Make, settings: OidcSettings) -> None:
    ours = TestClient(make(oidc=settings, link_token="link"), base_url=HOST, follow_redirects=False)
    assert ours.get("/signin/link?token=link").status_code == 403


def test_roles_of_claims() -> None:
    settings = OidcSettings("https://x", "c", "s", "groups", {"a": "viewer", "b": "admin"})
    for claims, role in (
        ({"groups": ["a", "b", "c"]}, "admin"),
        ({"groups": "a"}, "viewer"),
        ({"groups": ["c"]}, None),
        ({"groups": [["a"], 1, None]}, None),
        ({"groups": {"a": 1}}, None),
        ({}, None),
    ):
        assert settings.role(claims) == role
    nested = replace(settings, role_claim="realm_access.roles")
    assert nested.role({"realm_access": {"roles": ["a"]}}) == "viewer"
    assert nested.role({"realm_access.roles": ["b"]}) == "admin"
    assert nested.role({"realm_access": "a"}) is None


ALL = {
    "OIDC_ISSUER": "https://id.example",
    "OIDC_CLIENT_ID": "tuneline",
    "OIDC_CLIENT_SECRET": "secret",
    "OIDC_ROLES": "ml ops=operator, x=y=admin",
}


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OidcSettings.of(Settings()) is None
    for name, value in ALL.items():
        monkeypatch.setenv(f"TUNELINE_{name}", value)
    made = OidcSettings.of(Settings())
    assert made is not None
    assert (made.roles, made.role_claim) == ({"ml ops": "operator", "x=y": "admin"}, "groups")
    for name, value, says in (
        ("OIDC_ROLES", "a=owner", "VALUE=ROLE"),
        ("OIDC_ROLES", "admin", "VALUE=ROLE"),
        ("OIDC_ISSUER", "http://id.example", "expected https"),
        ("OIDC_CLIENT_ID", "", "needs TUNELINE_OIDC_CLIENT_ID too"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(f"TUNELINE_{name}", value)
            with pytest.raises(Usage, match=says):
                OidcSettings.of(Settings())
