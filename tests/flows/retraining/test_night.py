"""A night on one page: in the command, as a file, on the web, and to webhooks once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.retraining.night import night_of, tell_if_over, tell_of_last
from flows.ui.access.access import Access
from flows.ui.app import application
from registry import Registry
from registry.errors import StoreFailed
from registry.schedules.definition import Asked, Cron, Definition
from registry.schedules.occasions import Planned, due_at
from registry.schedules.runs import Ended
from tests.flows.metrics.watched import populate

ZONE = "Europe/Berlin"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """One night: one promoted with its decision, one refused, one failed, one unchanged."""
    with Registry.open(tmp_path / "home") as opened:
        made = populate(opened)
        definition = Definition(
            recipe_name="pico",
            recipe={"promote": {"channel": "a/prod"}},
            zone=ZONE,
            triggers=(Cron(at="0 3 * * *"),),
        )
        opened.schedules.put("nightly", definition, "ada", replace=False)
        runs = [Planned(target=target, channel=f"{target}/prod") for target in ("good", "worse", "<b>bad")]
        runs.append(Planned(target="same", channel="same/prod", state="unchanged", note="nothing new"))
        opened.occasions.plan(due_at("nightly", "cron", "it was time", datetime.now(UTC)), 1, runs)
        decision = opened.gates.record(
            candidate=made["gguf"].id, baseline=None, policy={}, verdict="pass",
            evidence={"rules": [{"sentence": "routing: 12 points better"}]},
        )  # fmt: skip
        for ended in (
            Ended(state="promoted", note="generation 2", artifact_id=made["gguf"].id, decision_id=decision,
                  seconds=90, cost=0.5),
            Ended(state="refused", note="gate: fail; worse by 9 points", seconds=30, cost=0.25),
            Ended(state="failed", note="<script>alert(1)</script>"),
        ):  # fmt: skip
            claim = opened.scheduled_runs.claim("nightly", 1)
            assert claim is not None
            opened.scheduled_runs.finish(claim, ended)
        yield opened


def test_what_a_night_came_to(registry: Registry) -> None:
    told = night_of(registry, ZONE, datetime.now(UTC))
    assert [row.run.target for row in told.rows] == ["good", "worse", "<b>bad", "same"]
    assert told.rows[0].measured == ("routing: 12 points better",)
    assert told.counts == {"promoted": 1, "refused": 1, "failed": 1, "unchanged": 1}
    assert (told.seconds, told.cost) == (120, 0.75)
    assert night_of(registry, "UTC", datetime.now(UTC)).rows == (), "another zone's"
    assert night_of(registry, ZONE, datetime.now(UTC) - timedelta(days=1)).rows == ()


def test_it_is_told_once_when_it_is_over(registry: Registry, tmp_path: Path) -> None:
    webhook, _ = registry.webhooks.add("https://example.com/hook", ["night"], "ada")
    now = datetime.now(UTC)
    assert tell_of_last(registry, ZONE, now) is None, "it is not over"
    path = tell_of_last(registry, ZONE, now + timedelta(days=1))
    assert path is not None
    page = path.read_text("utf-8")
    assert "routing: 12 points better" in page
    assert "at a cost of 0.75" in page
    assert "<script>" not in page
    assert "<b>bad" not in page
    assert re.findall(r'(?:src|href)="', page) == []
    assert tell_of_last(registry, ZONE, now + timedelta(days=1)) is None
    path.unlink()  # as in another machine's home
    assert tell_of_last(registry, ZONE, now + timedelta(days=1)) == path
    assert [delivery.event for delivery in registry.webhooks.deliveries(webhook.id)] == ["night"]


def test_it_says_what_drifted(registry: Registry) -> None:
    why = "inputs of a/prod changed, strongest in: <i>length"
    for name, zone in (("second", ZONE), ("elsewhere", "UTC")):
        definition = Definition(
            recipe_name="pico",
            recipe={"promote": {"channel": "a/prod"}},
            zone=zone,
            triggers=(Asked(on="drift"),),
        )
        registry.schedules.put(name, definition, "ada", replace=False)
    for name in ("nightly", "second"):
        registry.occasions.ask(name, "drift", why)
    registry.occasions.ask("elsewhere", "drift", "not in this time zone")
    registry.occasions.ask("nightly", "manual", "somebody asked")
    told = night_of(registry, ZONE, datetime.now(UTC))
    assert told.drifted == (why,), "two schedules were asked for one reason"
    assert told.about["drifted"] == [why]
    assert night_of(registry, ZONE, datetime.now(UTC) - timedelta(days=1)).drifted == ()
    path = tell_of_last(registry, ZONE, datetime.now(UTC) + timedelta(days=1))
    assert path is not None
    assert "</b>: inputs of a/prod changed, strongest in: &lt;i&gt;length" in path.read_text("utf-8")
    app = application(registry, Access(registry, link_token="the link"))
    with TestClient(app, "http://localhost", follow_redirects=False) as client:
        client.get("/signin/link", params={"token": "the link"})
        night = client.get("/schedules/night", params={"zone": ZONE})
        assert "<li>inputs of a/prod changed, strongest in: &lt;i&gt;length</li>" in night.text


def test_a_night_of_drift_alone_is_told_too(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home") as registry:
        definition = Definition(
            recipe_name="pico",
            recipe={"promote": {"channel": "a/prod"}},
            zone=ZONE,
            triggers=(Asked(on="drift"),),
        )
        registry.schedules.put("waits", definition, "ada", replace=False)
        after = datetime.now(UTC) + timedelta(days=1)
        assert tell_of_last(registry, ZONE, after) is None
        registry.occasions.ask("waits", "drift", "inputs changed")
        assert tell_of_last(registry, ZONE, after) is not None


def test_a_night_that_could_not_be_told_is_told_at_the_next_look(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, _ = registry.webhooks.add("https://example.com/hook", ["night"], "ada")
    after = datetime.now(UTC) + timedelta(days=1)

    def away(*_: object, **__: object) -> int:
        raise StoreFailed("the server does not answer")

    with monkeypatch.context() as within:
        within.setattr(registry.webhooks, "tell", away)
        tell_if_over(registry, ZONE, after)  # the runs go on
    assert tell_of_last(registry, ZONE, after) is not None
    assert [delivery.event for delivery in registry.webhooks.deliveries(webhook.id)] == ["night"]


def test_the_web_shows_schedules_and_a_night(registry: Registry) -> None:
    app = application(registry, Access(registry, link_token="the link"))
    with TestClient(app, "http://localhost", follow_redirects=False) as client:
        client.get("/signin/link", params={"token": "the link"})
        page = client.get("/schedules")
        for words in ("nightly", "0 3 * * * (Europe/Berlin)", "generation 2", "1 at once", "This night"):
            assert words in page.text
        night = client.get("/schedules/night", params={"zone": ZONE})
        assert "routing: 12 points better" in night.text
        assert "<script>alert" not in page.text + night.text
        before = re.search(r'href="(/schedules/night[^"]*at=[^"]*)"', night.text)
        assert before is not None
        assert "Nothing was due" in client.get(before[1].replace("&amp;", "&")).text
        for query in ("zone=Europe/Paris", f"zone={ZONE}&at=never", f"zone={ZONE}&at=0001-01-01"):
            assert client.get(f"/schedules/night?{query}").status_code == 404, query
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert csrf is not None
        form = {"csrf": csrf[1], "paused": "yes"}
        assert client.post("/schedules/nightly/pause", data=form).status_code == 303
        assert registry.schedules.get("nightly").paused
        assert client.post("/schedules/nightly/ask", data={"csrf": csrf[1]}).status_code == 303
        assert [one.trigger for one in registry.occasions.asked("nightly")] == ["manual"]
