"""The metrics of a registry over HTTP.

    app = metrics_app(registry)        # an ASGI application; `tuneline metrics` serves it

Answers name channels, tenants, recipes and hosts: keep clients away, as from the gateway's operations.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.metrics.collector import RegistryCollector
from flows.metrics.rates import Prices
from registry import Registry


def metrics_app(registry: Registry, rates: Prices | None = None) -> Starlette:
    """`/metrics`, in the OpenMetrics text format, and `/healthz`, which says that this server runs."""
    collector = RegistryCollector(registry, rates or Prices())
    numbers = CollectorRegistry()
    numbers.register(_Undescribed(collector))
    turn = threading.Lock()

    def text() -> bytes:
        with turn:
            return generate_latest(numbers)

    async def metrics(_request: Request) -> Response:
        return Response(await run_in_threadpool(text), headers={"content-type": CONTENT_TYPE_LATEST})

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(collector.close)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz)], lifespan=lifespan)


class _Undescribed:
    """Without `describe`, registering a collector would already read everything once."""

    def __init__(self, collector: RegistryCollector) -> None:
        self.collect = collector.collect

    def describe(self) -> list[object]:
        return []
