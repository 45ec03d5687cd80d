"""What webhooks are told by whoever serves the pages; and that each change of every screen is guarded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.ui import alerts, notices
from flows.ui.access.access import Access
from flows.ui.alerts import Alert, UnderWay
from flows.ui.app import application
from flows.ui.notices import DriftWatch
from registry import Artifact, Registry, Waiver
from tests.flows.ui.access.attempts import HOST, assert_all_refused, changes
from tests.seconds import seconds


@pytest.fixture
def browser(registry: Registry) -> Iterator[TestClient]:
    with TestClient(application(registry, Access(registry)), HOST, follow_redirects=False) as client:
        yield client


def test_no_screen_lets_a_change_through(registry: Registry, made: dict[str, Artifact]) -> None:
    app = application(registry, Access(registry))
    assert len(changes(app)) > 10
    assert assert_all_refused(app, registry) == 10 * len(changes(app)) - 4


def test_who_serves_the_pages_tells_prefect_of_schedules(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    monkeypatch.setattr(notices, "catch_up", lambda given: told.set() if given is registry else None)
    with TestClient(application(registry, Access(registry)), HOST):
        assert told.wait(seconds(10))


def test_the_pages_end_while_prefect_does_not_answer(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def ask(_: Registry) -> None:
        asked.set()
        answered.wait(seconds(60))

    monkeypatch.setattr(notices, "catch_up", ask)
    with TestClient(application(registry, Access(registry)), HOST):
        assert asked.wait(seconds(10))
    (left,) = [thread for thread in threading.enumerate() if thread.name == "notices"]
    assert left.daemon, "the process would wait for it"
    answered.set()
    left.join(seconds(10))
    assert not left.is_alive(), "it looks no further"


ALERT = {
    "status": "firing",
    "labels": {"alertname": "TunelineChannelDrift", "channel": "support/prod"},
    "annotations": {"summary": "it <drifted>"},
    "startsAt": "2026-11-29T06:00:00Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "fingerprint": "f",
}


def test_alerts_are_passed_on_once(registry: Registry, browser: TestClient) -> None:
    _, token = registry.users.add("alertmanager", "operator", "test")
    _, weak = registry.users.add("looker", "viewer", "test")
    registry.webhooks.add("https://example.org", ["alert"], "test")
    header = {"Authorization": f"Bearer {token}"}
    document = {"version": "4", "alerts": [ALERT, {**ALERT, "status": "resolved"}]}
    assert browser.post("/alerts", json=document).status_code == 401
    refused = browser.post("/alerts", json=document, headers={"Authorization": f"Bearer {weak}"})
    assert refused.status_code == 403
    for deliveries in (2, 0):  # Alertmanager repeats itself
        answer = browser.post("/alerts", json=document, headers=header)
        assert answer.json() == {"alerts": 2, "deliveries": deliveries}
    naive = json.dumps({"alerts": [{**ALERT, "startsAt": "2026-11-29T06:00:00"}]}).encode()
    half = json.dumps({"alerts": [{**ALERT, "labels": {"channel": "\ud800"}}]}).encode()
    bodies = (b"", b"[]", b"{}", b'{"alerts": 1}', b'{"alerts": [{}]}', b"\xff", b"[" * 100_000, naive, half)
    for bad in bodies:
        assert browser.post("/alerts", content=bad, headers=header).status_code == 422
    assert browser.post("/alerts", content=b"x" * 1_000_001, headers=header).status_code == 413


def test_the_fleet_shows_an_alert_until_it_is_resolved(registry: Registry, browser: TestClient) -> None:
    _, token = registry.users.add("alertmanager", "operator", "test")
    header = {"Authorization": f"Bearer {token}"}

    def shown(status: str) -> bool:
        answer = browser.post("/alerts", json={"alerts": [{**ALERT, "status": status}]}, headers=header)
        assert answer.status_code == 200
        page = browser.get("/", headers=header).text
        assert "<drifted>" not in page
        return '<a href="/channels/support/prod">it &lt;drifted&gt;</a>' in page

    assert shown("firing")
    assert shown("firing"), "Alertmanager repeats what lasts"
    assert len(UnderWay(registry.home).ls()) == 1, "the pages are started again"
    assert not shown("resolved")


def test_what_cannot_be_kept_is_asked_for_again(registry: Registry, browser: TestClient) -> None:
    _, token = registry.users.add("alertmanager", "operator", "test")
    registry.webhooks.add("https://example.org", ["alert"], "test")
    (registry.home / "alerts.json").mkdir()
    header = {"Authorization": f"Bearer {token}"}
    assert browser.post("/alerts", json={"alerts": [ALERT]}, headers=header).status_code == 503
    assert registry.webhooks.deliveries() == []


def test_alerts_under_way_are_few_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way = UnderWay(tmp_path)
    many = [Alert("firing", {"n": str(n)}, {}, "2026-11-29T06:00:00Z") for n in range(510)]
    under_way.take(many)
    assert under_way.ls() == many[-500:]
    (tmp_path / "alerts.json").write_text("{")  # as after a crash of the machine
    assert under_way.ls() == []
    under_way.take(many[:1])
    assert under_way.ls() == many[:1]
    monkeypatch.setattr(alerts, "FORGOTTEN_AFTER", -1.0)
    assert under_way.ls() == []


@pytest.mark.parametrize(
    ("labels", "address"),
    [
        ({"channel": "support/prod"}, "/channels/support/prod"),
        ({"tenant": "a b"}, "/tenants/a%20b"),
        ({"endpoint": "e1", "channel": ""}, "/engines/e1"),
        ({"recipe": "demo"}, "/runs"),
        ({}, "/health"),
    ],
)
def test_an_alert_leads_to_what_it_is_about(labels: dict[str, str], address: str) -> None:
    assert Alert("firing", labels, {}, "2026-11-29T06:00:00Z").address == address


def test_drift_is_told_once_it_lasts(registry: Registry, made: dict[str, Artifact]) -> None:
    def looks() -> list[int]:
        watch = DriftWatch(registry)
        return [watch.look() for _ in range(3)]

    registry.webhooks.add("https://example.org", ["drift"], "test")
    assert looks() == [0, 0, 0], "the engine of support/prod serves what the channel points to"
    registry.channels.move("support/prod", made["gptq"].id, 1, waiver=Waiver("r", "w"))
    assert looks() == [0, 1, 0], "a promotion takes a moment to arrive"
    assert looks() == [0, 0, 0], "and another process tells it no second time"
    (delivery,) = registry.webhooks.deliveries()
    assert delivery.event == "drift"
    (waiting,) = registry.webhooks.claim(60, 10)
    about = json.loads(waiting.body)["about"]
    assert (about["channel"], about["engine"]) == ("support/prod", "llama.cpp")
    assert (about["artifact_id"], about["generation"]) == (made["gptq"].id, 2)


def test_nothing_is_looked_at_where_nobody_asked(registry: Registry, made: dict[str, Artifact]) -> None:
    registry.channels.move("support/prod", made["gptq"].id, 1, waiver=Waiver("r", "w"))
    watch = DriftWatch(registry)
    assert [watch.look() for _ in range(3)] == [0, 0, 0]
    assert registry.webhooks.deliveries() == []
