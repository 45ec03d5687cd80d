"""What engines say of themselves, and what a gateway counted of each of its own."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import httpx
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from registry.tenancy.endpoints import IN_GATEWAY, OPERATIONS, Endpoint

ANSWER_SECONDS = 1.0
"""A page does not wait longer for an engine or a gateway that hangs."""
_LEFT_OUT = ("_bucket", "_created")


class Numbers(NamedTuple):
    """What an engine says of itself: name, labels in words, value; and why it says nothing."""

    rows: list[tuple[str, str, float]]
    problem: str | None


@dataclass(frozen=True)
class EngineTraffic:
    """Of all replicas of an engine of a gateway, since the gateway began. Times are in seconds."""

    replicas: int
    up: int
    requests: int
    """Given to it and not answered."""
    expected_wait: float
    """The longest of its replicas."""
    adapters: int
    slots: int
    restarts: int
    tokens: int
    first_token: float | None
    """Mean, from a request's arrival; None before any answer."""
    tokens_per_second: float | None
    """Of one streamed answer, on average; None before any."""


def numbers_of(row: Endpoint) -> Numbers:
    """The metrics of an engine; of one in a gateway those that the gateway has of it."""
    url = operations_of(row) if row.in_gateway else row.url
    if url is None:
        return Numbers([], None)
    try:
        families = list(_families(url, row.in_gateway))
    except (httpx.HTTPError, ValueError) as error:
        return Numbers([], f"{url}/metrics does not answer: {type(error).__name__}")
    rows = []
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.endswith(_LEFT_OUT) or (row.in_gateway and not _is_of(row, sample.labels)):
            continue
        labels = ", ".join(f"{key} {value}" for key, value in sorted(sample.labels.items()))
        rows.append((sample.name, labels, sample.value))
    return Numbers(rows, None)


def traffic(rows: Iterable[Endpoint]) -> dict[str, EngineTraffic]:
    """Id of each engine of a gateway that answers → its numbers; each gateway is asked once."""
    gateways: dict[str, list[Endpoint]] = defaultdict(list)
    for row in rows:
        if url := operations_of(row):
            gateways[url].append(row)
    counted: dict[str, EngineTraffic] = {}
    for url, engines in gateways.items():
        with contextlib.suppress(httpx.HTTPError, ValueError):
            families = list(_families(url, True))
            counted |= {row.id: _traffic(row, families) for row in engines}
    return counted


def operations_of(row: Endpoint) -> str | None:
    """Where the engine's gateway gives its numbers; None of an engine by itself, or an older gateway's."""
    return str(row.config[OPERATIONS]) if row.in_gateway and OPERATIONS in row.config else None


def _families(url: str, of_gateway: bool) -> Iterator[Metric]:
    answer = httpx.get(f"{url}/metrics", timeout=ANSWER_SECONDS)
    if answer.status_code == 200:
        yield from (open_metrics if of_gateway else prometheus_text)(answer.text)


def _is_of(row: Endpoint, labels: Mapping[str, str]) -> bool:
    """The row stands for all replicas of a section of serve.yaml: `0-0` for `0-0`, `0-1` and so on."""
    section = row.url.removeprefix(IN_GATEWAY).partition("-")[0]
    return labels.get("engine", "").partition("-")[0] == section


def _traffic(row: Endpoint, families: Iterable[Metric]) -> EngineTraffic:
    values: dict[str, list[float]] = defaultdict(list)
    for sample in (sample for family in families for sample in family.samples):
        if _is_of(row, sample.labels) and not sample.name.endswith(_LEFT_OUT):
            values[sample.name.removeprefix("tuneline_engine_")].append(sample.value)
    total = {name: sum(several) for name, several in values.items()}

    def mean(name: str) -> float | None:
        count = total.get(f"{name}_count", 0)
        return total[f"{name}_sum"] / count if count else None

    gap = mean("inter_token_seconds")
    return EngineTraffic(
        replicas=len(values["up"]),
        up=int(total.get("up", 0)),
        requests=int(total.get("requests", 0)),
        expected_wait=max(values["expected_wait_seconds"], default=0.0),
        adapters=int(total.get("adapters", 0)),
        slots=int(total.get("adapter_slots", 0)),
        restarts=int(total.get("restarts_total", 0)),
        tokens=int(total.get("completion_tokens_total", 0)),
        first_token=mean("time_to_first_token_seconds"),
        tokens_per_second=1 / gap if gap else None,
    )
