"""What things cost, by the user's rates. What cannot be priced is left out, and never shown as free."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from flows.metrics.families import made
from flows.metrics.rates import Prices
from flows.run.runs import PastRun
from registry.monitoring.state import State
from registry.monitoring.totals import StageTotals

MOST_RUNS = 20


def costs(
    state: State, stages: StageTotals, runs: list[PastRun], alive: Mapping[str, bool], rates: Prices
) -> Iterator[Metric]:
    """All families of costs."""
    currency = rates.currency
    engines = (((engine, currency), price) for engine, price in rates.engine_hour.items())
    yield made("tuneline_rate_engine_hour", engines)
    if rates.thousand_tokens is not None:
        price = rates.thousand_tokens
        yield made("tuneline_rate_thousand_tokens", [((currency,), price)])
        yield made("tuneline_tenant_day_cost", (
            ((tenant.name, currency), price * tenant.used / 1000) for tenant in state.tenants
        ))  # fmt: skip
    yield made("tuneline_run_cost", _runs(runs, rates))
    yield made("tuneline_artifact_cost", _artifacts(state, stages, rates))
    if (cost := _thousand_tokens(state, alive, rates)) is not None:
        yield made("tuneline_thousand_tokens_cost", [((currency,), cost)])


def _runs(runs: list[PastRun], rates: Prices) -> Iterator[tuple[tuple[str, ...], float]]:
    host = socket.gethostname()  # runs of this home; what they found made elsewhere is not in their time
    finished = [run for run in runs if run.report is not None][:MOST_RUNS]
    for run in finished:
        rows = (run.report or {}).get("stages", ())
        cost = rates.of_seconds({host: sum(row["seconds"] for row in rows if row["state"] == "ran")})
        if cost is not None:
            yield (run.recipe, run.id, rates.currency), cost


def _artifacts(state: State, stages: StageTotals, rates: Prices) -> Iterator[tuple[tuple[str, ...], float]]:
    for channel in state.channels:
        seconds: dict[str, float] = {}
        for ancestor in state.ancestors[channel.artifact_id]:
            for host, spent in stages.seconds(ancestor.id).items():
                seconds[host] = seconds.get(host, 0.0) + spent
        cost = rates.of_seconds(seconds)
        if cost is not None:
            yield (channel.name, channel.artifact_id[:12], rates.currency), cost


def _thousand_tokens(state: State, alive: Mapping[str, bool], rates: Prices) -> float | None:
    """None where an engine has no price, none is up, or nobody asked anything."""
    up = [endpoint.engine for endpoint in state.endpoints if alive[endpoint.id]]
    tokens = sum(part.prompt_tokens + part.completion_tokens for part in state.traffic)
    if not up or not tokens or any(engine not in rates.engine_hour for engine in up):
        return None
    return 1000 * sum(rates.engine_hour[engine] for engine in up) / tokens
