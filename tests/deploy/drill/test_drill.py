"""Alerts fire on their real trouble, are delivered, and are resolved when it ends."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import httpx
import pytest

from tests.deploy.dashboards.__main__ import BOARDS
from tests.deploy.drill.system import FASTER, MONITORING, System, faster, watched
from tests.deploy.drill.troubles import LANES, Trouble
from tests.deploy.test_alerts import RUNBOOK, alerts
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import until

LONGEST = 150.0
"""Seconds until an alert fires or is resolved; one of `for: 1h` takes 120 here."""
TROUBLES = list(chain.from_iterable(LANES))
Took = dict[str, tuple[float, float]]
"""Alert → seconds from its trouble to the notice that it fires, and from the end of that to the other."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with watched(tmp_path_factory.mktemp("drill")) as system:
        yield system


def drill(system: System, troubles: tuple[Trouble, ...], took: Took) -> list[str]:
    """Cause them one after the other, also where one was not noticed; returns what went wrong."""
    wrong = []
    for trouble in troubles:
        try:
            _cause(system, trouble, took)
        except Exception as error:
            wrong.append(f"{', '.join(trouble.alerts)}: {error!r}")
    return wrong


def _cause(system: System, trouble: Trouble, took: Took) -> None:
    wait, alerts_of, about = system.receiver.wait, set(trouble.alerts), dict(trouble.about)
    if "instance" in about:
        assert system.small is not None
        about["instance"] = system.small.target
    early = [one for one in system.firing() if one["alertname"] in alerts_of and about.items() <= one.items()]
    assert not early, "it fires without its trouble"
    began = time.monotonic()
    with trouble.cause(system):
        caused = time.monotonic()
        limit = seconds(LONGEST)
        fired = {alert: wait(alert, "firing", about, began, limit) for alert in trouble.alerts}
        ending = time.monotonic()
    for alert in trouble.alerts:
        resolved = wait(alert, "resolved", about, ending, seconds(LONGEST))
        took[alert] = max(0.0, fired[alert] - caused), resolved - ending


def table(took: Took) -> list[str]:
    """As it stands in docs/operations.md."""
    rows = ["| alert | the drill's cause | fires after | its end | resolved after |", "|---|---|---|---|---|"]
    for trouble in TROUBLES:
        for alert in trouble.alerts:
            if alert in took:
                fired, resolved = took[alert]
                rows.append(
                    f"| {alert} | {trouble.how} | {fired:.0f} s | {trouble.over} | {resolved:.0f} s |"
                )
    return rows


@pytest.mark.deploy
@pytest.mark.timeout(seconds(2400))
def test_each_alert_fires_on_its_trouble_and_is_resolved(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    began, took = time.monotonic(), Took()
    with ThreadPoolExecutor(len(LANES)) as pool:
        drills = [pool.submit(drill, system, lane, took) for lane in LANES]
    wrong = [text for done in drills for text in done.result()]
    told = {(alert, status) for alert in took for status in ("firing", "resolved")}
    with capsys.disabled():
        print(f"\nthe drill took {time.monotonic() - began:.0f} s", *table(took), sep="\n")
    assert wrong == []
    system.receiver.wait_told(told, seconds(60))


@pytest.mark.deploy
@pytest.mark.timeout(seconds(2400))
def test_each_panel_of_the_pipeline_has_data(system: System) -> None:
    system.tuneline("artifacts", "verify", system.live)
    panels = BOARDS["pipeline"].panels
    queries = [query.replace("$recipe", ".*") for panel in panels for query, _ in panel.queries]
    assert len(queries) > 10
    until(lambda: _has_data(system, "tuneline_verify_timestamp_seconds"), "the verification is scraped")
    assert [query for query in queries if not _has_data(system, query)] == []


def _has_data(system: System, query: str) -> bool:
    times = {"start": system.began, "end": time.time(), "step": "5s"}
    answer = httpx.get(f"{system.prometheus}/api/v1/query_range", params={"query": query, **times})
    series = answer.json()["data"]["result"]
    return any(math.isfinite(float(value)) for row in series for _, value in row["values"])


def test_the_drills_rules_differ_in_their_durations_only() -> None:
    rules = (MONITORING / "alerts.yml").read_text()
    scaled = faster(rules)
    number = r"(for: |\[)(\d+)(ms|[smhd])"
    assert re.sub(number, r"\1", scaled) == re.sub(number, r"\1", rules)
    units = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
    before = [int(match[2]) * units[match[3]] for match in re.finditer(number, rules)]
    after = [int(match[2]) * units[match[3]] for match in re.finditer(number, scaled)]
    assert before == [FASTER * duration for duration in after]
    assert len(before) > 15


def test_the_runbook_has_the_drills_table() -> None:
    text = RUNBOOK.read_text("utf-8").partition("## The drill\n")[2].partition("\n## ")[0]
    pattern = re.compile(r"\d+ s")
    written = [pattern.sub("N s", line) for line in text.splitlines() if line.startswith("| Tuneline")]
    zeros = dict.fromkeys(alerts(), (0.0, 0.0))
    assert written == [pattern.sub("N s", row) for row in table(zeros)[2:]]
