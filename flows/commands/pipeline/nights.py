"""`tuneline schedule night`: what a night came to."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import duration, plain
from flows.report.page import write_whole
from flows.retraining.night import Night, html_page, night_of
from flows.retraining.times import check_zone


def night(arguments: argparse.Namespace) -> Reply:
    """A night on one page."""
    check_zone(arguments.zone)
    at = datetime.now(UTC)
    if arguments.date is not None:
        try:
            evening = datetime.fromisoformat(f"{arguments.date}T18:00").replace(
                tzinfo=ZoneInfo(arguments.zone)
            )
        except ValueError:
            raise Usage(
                f"--date {arguments.date[:40]}: expected the date of its evening, 2026-11-29"
            ) from None
        at = evening.astimezone(UTC)
    with open_registry() as registry:
        report = night_of(registry, arguments.zone, at)
        if arguments.out is not None:
            write_whole(html_page(report), arguments.out)
    document = {**report.about, "page": None if arguments.out is None else str(arguments.out)}
    return Reply(document, lambda: _print(report))


def _print(report: Night) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in report.counts.items())
    cost = "" if report.cost is None else f", at a cost of {report.cost:.2f}"
    print(f"night of {report.name} ({report.zone}): {counts or 'nothing was due'}")
    print(f"computed for {duration(report.seconds)}{cost}")
    for why in report.drifted:
        print(f"drift: {plain(why)}")
    rows = [
        (row.run.target, row.run.state, "; ".join([plain(row.run.note), *map(plain, row.measured)]))
        for row in report.rows
    ]
    if rows:
        print_table("", ("target", "came to", "why, and what was measured"), rows)
