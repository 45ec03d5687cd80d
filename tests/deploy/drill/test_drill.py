"""Each alert fires on its real trouble, is delivered, and is resolved when that ends; each panel has data."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import httpx
import pytest

from tests.deploy.dashboards.__main__ import BOARDS
from tests.deploy.drill.system import System, watched
from tests.deploy.drill.troubles import LANES, LAST, Trouble
from tests.deploy.drill.watchers import FASTER, MONITORING, faster
from tests.deploy.test_alerts import RUNBOOK, alerts
from tests.seconds import seconds

LONGEST = 150.0
"""Seconds until an alert fires or is resolved; one of `for: 1h` takes 120 here."""
TROUBLES = [*chain.from_iterable(LANES), LAST]
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
    began, limit = time.monotonic(), seconds(LONGEST)
    missed: AssertionError | None = None
    with trouble.cause(system):
        caused = time.monotonic()
        try:
            fired = {alert: wait(alert, "firing", about, began, limit) for alert in trouble.alerts}
        except AssertionError as error:  # the trouble ends all the same: others are caused after it
            missed = error
        ending = time.monotonic()
    if missed is not None:
        raise missed
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
    wrong += drill(system, (LAST,), took)
    told = {(alert, status) for alert in took for status in ("firing", "resolved")}
    with capsys.disabled():
        print(f"\nthe drill took {time.monotonic() - began:.0f} s", *table(took), sep="\n")
    assert wrong == []
    system.receiver.wait_told(told, seconds(60))


@pytest.mark.deploy
@pytest.mark.timeout(seconds(2400))
@pytest.mark.parametrize("name", BOARDS)
def test_each_panel_has_data(system: System, name: str) -> None:
    system.tuneline("artifacts", "verify", system.live)
    queries = [query for panel in BOARDS[name].panels for query, _ in panel.queries]
    left = [re.sub(r"\$[a-z]+", ".*", query.replace("$__rate_interval", "30s")) for query in queries]
    assert len(left) >= len(BOARDS[name].panels)

    asking, end = system.serving.asking, time.monotonic() + seconds(60)
    with asking("a", 1, stream=True), asking("b", 1), asking("whole", 1, stream=True):
        while left and time.monotonic() < end:
            time.sleep(1)
            left = [query for query in left if not _has_data(system, query)]
    assert left == []


def _has_data(system: System, query: str) -> bool:
    times: dict[str, Any] = {"start": system.began, "end": time.time(), "step": "5s"}
    answer = httpx.get(f"{system.prometheus}/api/v1/query_range", params={"query": query, **times})
    series = answer.raise_for_status().json()["data"]["result"]
    return any(math.isfinite(float(value)) for row in series for _, value in row["values"])


def test_every_alert_has_a_drill() -> None:
    drilled = chain.from_iterable(trouble.alerts for trouble in TROUBLES)
    assert sorted(drilled) == sorted(alerts())


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
