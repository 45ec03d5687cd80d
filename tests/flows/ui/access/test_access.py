"""Who gets in, and what is refused."""

from __future__ import annotations

import getpass
import threading

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from flows.ui.access import guard, throttle
from flows.ui.access.throttle import Throttle
from registry import Registry
from registry.access import sessions
from tests.flows.ui.access.attempts import (
    HOST,
    assert_all_refused,
    changes,
    form_token,
    session_form_token,
    sign_in,
)
from tests.flows.ui.access.conftest import Make


def browser(app: object, host: str = HOST) -> TestClient:
    return TestClient(app, base_url=host, follow_redirects=False)  # type: ignore[arg-type]


def test_every_change_by_whoever_must_not_make_it_is_refused(make: Make, registry: Registry) -> None:
    app = make()
    assert sorted(changes(app)) == ["/move/x", "/signin", "/signout", "/tenants"]
    assert assert_all_refused(app, registry) == 4 * 8 + 2 + 3


def test_what_is_refused_would_be_done_for_whoever_may(make: Make, registry: Registry) -> None:
    app = make()
    operator, form = sign_in(app, registry, "olga", "operator")
    for headers in ({}, {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}):
        answer = operator.post("/move/x", data={"csrf": form, "reason": "ü & ="}, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (200, "ü & =")
    by_header = operator.post("/move/x", data={"reason": "r"}, headers={"X-CSRF-Token": form})
    assert by_header.json() == {"reason": "r"}
    assert operator.post("/tenants", data={"csrf": form}).status_code == 403
    admin, form = sign_in(app, registry, "ada", "admin")
    assert admin.post("/tenants", data={"csrf": form}).status_code == 200
    assert admin.post("/tenants", content=b"x" * 70_000).status_code == 413
    assert admin.post("/tenants", json={"csrf": form}).status_code == 403


def test_without_a_session_pages_lead_to_the_sign_in_and_all_else_is_401(make: Make) -> None:
    anonymous = browser(make())
    answer = anonymous.get("/runs/7?stage=train&x=ä")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/signin?next=/runs/7%3Fstage%3Dtrain%26x%3D")
    assert anonymous.get("/").headers["location"] == "/signin"
    for path, headers in (("/events", {}), ("/runs.json", {}), ("/", {"HX-Request": "true"})):
        assert anonymous.get(path, headers=headers).status_code == 401
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert anonymous.request(method, "/move/x", data={"csrf": "0" * 64}).status_code == 401
    assert [anonymous.get(path).text for path in ("/alive", "/static/x")] == ["ok", "static"]


def test_signing_in_and_out(make: Make, registry: Registry) -> None:
    app = make()
    _, token = registry.users.add("vera", "viewer", "test")
    vera = browser(app)
    page = vera.get("/signin?next=/runs/7%3Fx%3D1")
    assert "<script" not in page.text
    assert "style=" not in page.text
    form = {"csrf": form_token(page), "token": f" {token} ", "next": "/runs/7?x=1"}
    answer = vera.post("/signin", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/7?x=1")
    cookie = next(c for c in answer.headers.get_list("set-cookie") if "_session_" in c)
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert token not in cookie
    who = vera.get("/").json()
    assert (who["name"], who["kind"], who["may"]) == ("vera", "account", ["viewer"])
    assert vera.get("/signin").status_code == 303
    kept = dict(vera.cookies)
    assert vera.post("/signout", data={"csrf": who["csrf"]}).headers["location"] == "/signin"
    vera.cookies.update(kept)
    assert vera.get("/").status_code == 303, "the session is over, whatever the browser keeps"


@pytest.mark.parametrize(
    "after", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/\r\nX: y"]
)
def test_the_sign_in_leads_to_our_own_pages_only(make: Make, registry: Registry, after: str) -> None:
    app = make()
    _, token = registry.users.add("vera", "viewer", "test")
    vera = browser(app)
    form = {"csrf": form_token(vera.get("/signin")), "token": token, "next": after}
    assert vera.post("/signin", data=form).headers["location"] == "/"


def test_a_session_is_new_at_each_sign_in_and_the_one_before_ends(make: Make, registry: Registry) -> None:
    app = make()
    vera, _ = sign_in(app, registry, "vera", "viewer")
    planted = dict(vera.cookies)
    _, token = registry.users.add("olga", "operator", "test")
    other = browser(app)
    other.cookies.update(planted)
    form = {"csrf": registry.sessions.signature("form", "x"), "token": token}
    assert other.post("/signin", data=form).status_code == 403
    form["csrf"] = session_form_token(registry, other)
    assert other.post("/signin", data=form).status_code == 303
    assert other.get("/").json()["name"] == "olga"
    assert vera.get("/").status_code == 303


def test_a_changed_cookie_is_no_session(make: Make, registry: Registry) -> None:
    vera, _ = sign_in(make(), registry, "vera", "viewer")
    ((name, value),) = [(n, v) for n, v in vera.cookies.items() if "_session_" in n]
    for changed in (value[:-1] + ("0" if value[-1] != "0" else "1"), value.partition(".")[0], "", "ü", "."):
        answer = browser(make()).get("/", headers={"Cookie": f"{name}={changed}".encode()})
        assert answer.status_code == 303


def test_over_tls_the_cookie_is_for_tls_only(make: Make, registry: Registry) -> None:
    _, token = registry.users.add("vera", "viewer", "test")
    vera = browser(make(secure_cookies=True), "https://tuneline.example")
    answer = vera.post("/signin", data={"csrf": form_token(vera.get("/signin")), "token": token})
    cookie = next(c for c in answer.headers.get_list("set-cookie") if "_session_" in c)
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie
    assert vera.get("/").json()["name"] == "vera"


def test_scripts_use_the_token_itself(make: Make, registry: Registry) -> None:
    _, token = registry.users.add("robot", "operator", "test")
    app, header = make(), {"Authorization": f"Bearer {token}"}
    who = browser(app).get("/", headers=header).json()
    assert (who["name"], who["kind"], who["csrf"]) == ("robot", "token", "")
    assert browser(app).post("/move/x", data={"a": "1"}, headers=header).json() == {"a": "1"}
    assert browser(app).post("/tenants", data={"a": "1"}, headers=header).status_code == 403
    foreign = header | {"Origin": "http://elsewhere.example"}
    assert browser(app).post("/move/x", data={}, headers=foreign).status_code == 403
    registry.users.revoke("robot", "test")
    assert browser(app).post("/move/x", data={}, headers=header).status_code == 401
    late = browser(app).get("/", headers=header)
    assert (late.status_code, "revoked" in late.json()["detail"]) == (401, True), "no page to sign in"


def test_the_link_opens_once_and_only_while_there_is_no_account(make: Make, registry: Registry) -> None:
    app = make(link_token="link")
    owner = browser(app)
    assert "tuneline ui" in owner.get("/signin").text
    assert browser(app).get("/signin/link?token=lin").status_code == 403
    assert owner.head("/signin/link?token=link").status_code == 405, "a preview does not use it up"
    assert owner.get("/signin/link?token=link").headers["location"] == "/"
    who = owner.get("/").json()
    assert (who["name"], who["kind"], who["may"][-1]) == (getpass.getuser(), "local", "admin")
    assert owner.post("/tenants", data={"csrf": who["csrf"]}).status_code == 200
    assert browser(app).get("/signin/link?token=link").status_code == 403
    registry.users.add("ada", "admin", "test")
    assert owner.get("/").status_code == 303
    late = make(link_token="late")
    assert browser(late).get("/signin/link?token=late").status_code == 403


def test_another_name_for_this_machine_is_refused_without_accounts(make: Make, registry: Registry) -> None:
    app = make(link_token="link")
    for host in ("http://evil.example", "http://localhost.evil.example:8710"):
        for path in ("/", "/signin", "/signin/link?token=link"):
            assert browser(app, host).get(path).status_code == 421
    assert browser(app, "http://[::1]:8710").get("/").status_code == 303
    registry.users.add("ada", "admin", "test")
    assert browser(app, "http://tuneline.example").get("/").status_code == 303


def test_wrong_tokens_are_throttled_by_address(make: Make, registry: Registry) -> None:
    app = make()
    _, token = registry.users.add("vera", "viewer", "test")
    thief = browser(app)
    csrf = form_token(thief.get("/signin"))
    statuses = [
        thief.post("/signin", data={"csrf": csrf, "token": f"tlu-{number:012x}-{'A' * 43}"}).status_code
        for number in range(throttle.FAILURES + 1)
    ]
    assert statuses == [403] * throttle.FAILURES + [429]
    late = thief.post("/signin", data={"csrf": csrf, "token": token})
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= throttle.SECONDS


def test_the_throttle_forgets() -> None:
    at = 0.0
    counted = Throttle(lambda: at)
    for _ in range(throttle.FAILURES):
        assert counted.wait("a", "b") == 0
        counted.failed("a")
        at += 1
    assert counted.wait("b", "a") == throttle.SECONDS - throttle.FAILURES
    assert counted.wait("b") == 0
    at = throttle.SECONDS
    assert counted.wait("a") == 0


def test_sessions_end_by_themselves(registry: Registry) -> None:
    at = 1_000_000.0
    kept = sessions.Sessions(registry.database, lambda: at)
    registry.users.add("vera", "viewer", "test")
    session = kept.begin("vera")
    for _ in range(3):
        at += sessions.IDLE_SECONDS - 1
        assert kept.user(session)[0], "each use counts"
    at += sessions.IDLE_SECONDS + 1
    assert kept.user(session) == (False, None)
    begun, session = at, kept.begin("vera")
    while at - begun <= sessions.LONGEST_SECONDS:
        assert kept.user(session)[0]
        at += sessions.IDLE_SECONDS - 1
    assert kept.user(session) == (False, None)


def test_a_stream_of_events_ends_when_its_reader_is_revoked(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "CHECKED_EVERY", 0.05)
    vera, _ = sign_in(make(), registry, "vera", "viewer")
    assert vera.get("/runs/1").status_code == 200
    timer = threading.Timer(0.3, registry.users.revoke, ("vera", "test"))
    timer.start()
    numbers = vera.get("/events").text.count("data:")
    timer.join()
    assert 1 < numbers < 1000
    assert vera.get("/events").status_code == 401


def test_websockets_are_refused(make: Make) -> None:
    with pytest.raises(WebSocketDisconnect), browser(make()).websocket_connect("/"):
        pass
