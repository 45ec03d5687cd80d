"""What others are told by whoever serves the pages: webhooks of drift and all else, Prefect of schedules."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flows.metrics.fleet import drift, living
from flows.retraining.deployments import catch_up
from flows.run.prefect_block import notify
from registry import Registry
from registry.access.delivery import deliver_forever
from registry.errors import RegistryError
from registry.monitoring.state import RegistryWatch

log = logging.getLogger("tuneline.webhooks")

LOOKED_EVERY = 30.0
"""Seconds between two looks for drift. It is told when both see it: a promotion takes a moment to arrive."""
LEFT_SECONDS = 0.2
"""How long a look under way is waited for at the end; then it ends with the process."""
Drifted = frozenset[tuple[str, ...]]


class DriftWatch:
    """Tells webhooks of channels whose engine serves something else than they point to."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watch = RegistryWatch(registry)
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
        deliveries = 0
        for channel, engine in sorted(now & self._before):
            about = {
                "channel": channel,
                "engine": engine,
                "artifact_id": standing[channel].artifact_id,
                "generation": standing[channel].generation,
            }
            deliveries += self._registry.webhooks.tell("drift", about, json.dumps(about))
        self._before = now
        return deliveries


@asynccontextmanager
async def telling(registry: Registry) -> AsyncIterator[None]:
    """Deliver what waits, look for drift, and have Prefect know the schedules, meanwhile."""
    delivers = asyncio.create_task(deliver_forever(registry.webhooks, notify))
    over = threading.Event()
    # A daemon: the process would wait for any other thread, and a server of Prefect's may not answer.
    looks = threading.Thread(target=_watch, args=(registry, over), name="notices", daemon=True)
    looks.start()
    try:
        yield
    finally:
        over.set()
        delivers.cancel()
        await asyncio.gather(delivers, return_exceptions=True)
        await asyncio.to_thread(looks.join, LEFT_SECONDS)


def _watch(registry: Registry, over: threading.Event) -> None:
    watch = DriftWatch(registry)
    while not over.is_set():
        try:
            watch.look()
            catch_up(registry)
        except RegistryError as error:
            log.error("drift is looked for later: %s", error)
        over.wait(LOOKED_EVERY)
