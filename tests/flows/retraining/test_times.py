"""Cron through changes of the clock, windows over midnight, nights from noon to noon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flows.errors import Usage
from flows.retraining.times import check_cron, last_due, missed, next_due, night, opens

BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "due"),
    [
        # the clock jumps from 02:00 to 03:00, so there is no 02:30: due as it has jumped
        ("2026-03-28T12:00", "2026-03-29T01:00"),
        # 02:30 comes twice: due the first time only
        ("2026-10-24T12:00", "2026-10-25T00:30"),
    ],
)
def test_a_time_that_the_clocks_touch_is_due_once(change: str, due: str) -> None:
    start = utc(change)
    assert next_due("30 2 * * *", "Europe/Berlin", start) == utc(due)
    seen = {
        last_due("30 2 * * *", "Europe/Berlin", start + timedelta(minutes=minutes))
        for minutes in range(0, 24 * 60, 5)
    }
    assert seen == {last_due("30 2 * * *", "Europe/Berlin", start), utc(due)}
    assert missed("30 2 * * *", "Europe/Berlin", start, start + timedelta(days=1)) == 1


def test_whoever_looks_while_an_hour_comes_again_finds_the_last_time() -> None:
    looks = [utc("2026-10-25T00:30") + timedelta(minutes=minutes) for minutes in range(0, 180, 7)]
    assert {last_due("30 2 * * *", "Europe/Berlin", look) for look in looks} == {utc("2026-10-25T00:30")}


def test_every_hour_is_every_hour_through_both_changes() -> None:
    for day in ("2026-03-28T23:00", "2026-10-24T22:00"):
        due = utc(day)
        for _ in range(26):
            following = next_due("0 * * * *", "Europe/Berlin", due)
            assert following == due + timedelta(hours=1)
            due = following


@pytest.mark.parametrize("cron", ["", "0 3", "61 * * * *", "0 0 31 2 *", "whenever"])
def test_what_is_no_cron_is_refused(cron: str) -> None:
    with pytest.raises(Usage, match=r"expected five fields .* '0 3 \* \* \*'"):
        check_cron(cron, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "../etc/passwd"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(Usage, match=r"time zone .* expected a name such as Europe/Berlin"):
        check_cron("0 3 * * *", zone)


@pytest.mark.parametrize(
    ("clock", "opening"),
    [("21:59", "22:00"), ("22:00", None), ("03:00", None), ("05:59", None), ("06:00", "22:00")],
)
def test_a_window_over_midnight(clock: str, opening: str | None) -> None:
    now = datetime.fromisoformat(f"2026-11-29T{clock}").replace(tzinfo=BERLIN)
    found = opens("22:00-06:00", "Europe/Berlin", now.astimezone(UTC))
    assert (found and f"{found.astimezone(BERLIN):%H:%M}") == opening
    assert found is None or found > now


def test_a_window_of_one_day() -> None:
    now = datetime(2026, 11, 29, 18, tzinfo=UTC)
    assert opens("09:00-17:00", "UTC", now) == datetime(2026, 11, 30, 9, tzinfo=UTC)
    assert opens(None, "UTC", now) is None


def test_a_night_goes_from_noon_to_noon_and_may_have_25_hours() -> None:
    begin, end = night("Europe/Berlin", utc("2026-10-25T03:00"))
    assert (begin, end) == (utc("2026-10-24T10:00"), utc("2026-10-25T11:00"))
    assert night("Europe/Berlin", end)[0] == end
