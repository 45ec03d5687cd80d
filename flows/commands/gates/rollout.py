"""`tuneline channels rollout` and `outcomes`: what each does."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.commands.serving.tenants import who
from flows.errors import Usage
from flows.formatting import plain, short
from registry import Registry
from registry.channels.channels import check_name
from registry.tenancy.outcomes import OutcomeSummary

_COUNTS = ("requests", "failed", "cut off", "tokens in", "tokens out", "agreed")
_COLUMNS = ("artifact", "arm", *_COUNTS, "p50", "p95", "timed")


def rollout(arguments: argparse.Namespace) -> Reply:
    """Start a rollout, stop it, or say what there is and was."""
    starting, stopping = arguments.candidate is not None, arguments.stop
    if starting and stopping:
        raise Usage("--stop ends the rollout; leave out the candidate, or --stop")
    if not starting and (arguments.canary or arguments.shadow):
        raise Usage("--canary and --shadow need a candidate; name it")
    if (starting or stopping) and not (arguments.reason or "").strip():
        raise Usage("a rollout starts and stops with --reason WHY; it is kept in the channel's history")
    check_name(arguments.channel)
    with open_registry() as registry:
        if starting:
            candidate = registry.get(arguments.candidate).id
            shares = arguments.canary, arguments.shadow
            registry.rollouts.start(arguments.channel, candidate, *shares, who(arguments), arguments.reason)
        elif stopping:
            registry.rollouts.stop(arguments.channel, who(arguments), arguments.reason)
        return _rollouts(registry, arguments.channel)


def _rollouts(registry: Registry, channel: str) -> Reply:
    current = registry.rollouts.current(channel)
    history = registry.rollouts.history(channel)
    document = {
        "channel": channel,
        "current": None if current is None else current.model_dump(mode="json"),
        "history": [event.model_dump(mode="json") for event in history],
    }

    def text() -> None:
        if current is None:
            print(f"{channel} has no rollout in progress")
        else:
            shares = f"canary {current.canary_percent:g} %, shadow {current.shadow_percent:g} %"
            print(
                f"{channel} has a rollout of {short(current.candidate)} at generation {current.generation}: "
                f"{shares}"
            )
        for event in history:
            shares = f" (canary {event.canary_percent:g} %, shadow {event.shadow_percent:g} %)"
            print(
                f"{event.at:%Y-%m-%d %H:%M}  {event.action} {short(event.candidate)}"
                f"{shares if event.action == 'start' else ''}, {plain(event.who)}: {plain(event.reason)}"
            )

    return Reply(document, text)


def outcomes(arguments: argparse.Namespace) -> Reply:
    """What came of a channel's answers; --latency hands the durations to a gate."""
    if (arguments.latency is None) != (arguments.artifact is None):
        raise Usage("--latency FILE and --artifact REF go together: a gate reads durations of one artifact")
    check_name(arguments.channel)
    now = datetime.now(UTC)
    since = None if arguments.since is None else now - arguments.since
    with open_registry() as registry:
        forgotten = 0
        if arguments.prune is not None:
            forgotten = registry.outcomes.prune(now - arguments.prune, arguments.channel)
        summaries = registry.outcomes.summary(arguments.channel, since)
        written = 0
        if arguments.latency is not None:
            written = _write_latency(
                registry, arguments.channel, arguments.artifact, since, arguments.latency
            )
    document = {
        "channel": arguments.channel,
        "since": since,
        "outcomes": [summary.model_dump(mode="json") for summary in summaries],
        "forgotten": forgotten,
    }

    def text() -> None:
        if summaries:
            print_table("", _COLUMNS, [_cells(summary) for summary in summaries])
        else:
            print(f"{arguments.channel}: no outcomes{'' if since is None else ' in that time'}")
        if forgotten:
            print(f"rows forgotten: {forgotten:,}")
        if arguments.latency is not None:
            print(f"{arguments.latency}: {written:,} durations of {arguments.artifact}")

    return Reply(document, text)


def _write_latency(registry: Registry, channel: str, ref: str, since: datetime | None, path: Path) -> int:
    subject = registry.get(ref).id
    rows = registry.outcomes.read(channel, since, subject)
    # A duration of 0 is below what the clock can tell, and no gate takes it.
    durations = [value for row in rows for value in row.latencies_ms if value > 0]
    if not durations:
        raise Usage(
            f"channel {channel} has no durations of {short(subject)} in that time; nothing was written"
        )
    try:
        path.write_text(json.dumps({"subject": subject, "milliseconds": durations}), encoding="utf-8")
    except OSError as error:
        raise Usage(f"{path} cannot be written: {error}") from None
    return len(durations)


def _cells(summary: OutcomeSummary) -> tuple[str, ...]:
    def ms(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f} ms"

    counts = (
        summary.requests,
        summary.failed,
        summary.truncated,
        summary.prompt_tokens,
        summary.completion_tokens,
    )
    return (
        short(summary.artifact_id),
        summary.arm,
        *(f"{count:,}" for count in counts),
        f"{summary.agreed:,} of {summary.compared:,}" if summary.compared else "–",
        ms(summary.p50_ms),
        ms(summary.p95_ms),
        f"{summary.durations:,}",
    )
