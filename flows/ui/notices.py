"""What webhooks are told by whoever serves the pages: deliveries that wait, drift, and alerts.

Alertmanager sends its alerts to `/alerts` with the token of a user who is an operator.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.metrics.fleet import drift, living
from flows.ui.pages import registry_of
from registry import Registry
from registry.access.delivery import deliver_forever
from registry.errors import RegistryError
from registry.monitoring.state import Watch

log = logging.getLogger("tuneline.webhooks")

LOOKED_EVERY = 30.0
"""Seconds between two looks for drift. It is told when both see it: a promotion takes a moment to arrive."""
MOST_BYTES = 1_000_000
Drifted = frozenset[tuple[str, ...]]


class DriftWatch:
    """Tells webhooks of channels whose engine serves something else than they point to."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watch = Watch(registry)
        self._before: Drifted = frozenset()

    def look(self) -> int:
        """Tell of what drifted at the look before this too; returns how many deliveries that made."""
        if not any("drift" in webhook.events for webhook in self._registry.webhooks.ls()):
            self._before = frozenset()
            return 0
        state = self._watch.read({})
        now: Drifted = frozenset(
            tuple(labels) for labels, is_so in drift(state, living(state.endpoints)) if is_so
        )
        standing = {channel.name: channel for channel in state.channels}
        told = 0
        for channel, engine in sorted(now & self._before):
            about = {
                "channel": channel,
                "engine": engine,
                "artifact_id": standing[channel].artifact_id,
                "generation": standing[channel].generation,
            }
            told += self._registry.webhooks.tell("drift", about, json.dumps(about))
        self._before = now
        return told


@asynccontextmanager
async def telling(registry: Registry) -> AsyncIterator[None]:
    """Deliver what waits, and look for drift, meanwhile."""
    tasks = [asyncio.create_task(deliver_forever(registry.webhooks)), asyncio.create_task(_watch(registry))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(registry: Registry) -> None:
    watch = DriftWatch(registry)
    while True:
        try:
            await asyncio.to_thread(watch.look)
        except RegistryError as error:
            log.error("drift is looked for later: %s", error)
        await asyncio.sleep(LOOKED_EVERY)


async def _alerts(request: Request) -> Response:
    """Take what Alertmanager sends (version 4 of its webhook's JSON); each alert is told once."""
    if not request.app.state.may(request, "operator"):
        raise HTTPException(403, "this needs the token of a user with the role operator")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"the alerts are larger than {MOST_BYTES} bytes")
    alerts = _read(bytes(body))
    told = await anyio.to_thread.run_sync(_tell, registry_of(request), alerts)
    return JSONResponse({"alerts": len(alerts), "deliveries": told})


def _read(body: bytes) -> list[Mapping[str, Any]]:
    try:
        alerts = json.loads(body)["alerts"]
        return [
            {
                "status": str(alert["status"]),
                "labels": {str(name): str(value) for name, value in alert["labels"].items()},
                "annotations": {str(k): str(v) for k, v in alert.get("annotations", {}).items()},
                "started": str(alert["startsAt"]),
            }
            for alert in alerts
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = "expected the JSON that Alertmanager sends to a webhook: an object with `alerts`"
        raise HTTPException(422, message) from None


def _tell(registry: Registry, alerts: list[Mapping[str, Any]]) -> int:
    return sum(
        registry.webhooks.tell(
            "alert", alert, json.dumps([alert[key] for key in ("status", "labels", "started")])
        )
        for alert in alerts
    )


routes = [Route("/alerts", _alerts, methods=["POST"])]
