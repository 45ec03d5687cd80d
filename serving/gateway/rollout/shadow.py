"""The same question to a candidate, after the live artifact has answered; only what came of it is kept."""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp

from registry.tenancy.tenants import Tenant
from serving.errors import ServingError
from serving.gateway.metrics import Metrics
from serving.gateway.relay import TokenUsage
from serving.gateway.replica import Replica
from serving.gateway.request_policy import GatewayRequest
from serving.gateway.rollout.outcomes import Outcomes, RequestOutcome
from serving.gateway.router import Router
from serving.openai_api.errors import ApiError
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")


class Shadows:
    """A few at a time, only on engines with room to spare; the others are left out, and counted."""

    def __init__(self, fleet: Router, outcomes: Outcomes, metrics: Metrics, most: int) -> None:
        self._fleet, self._outcomes, self._metrics, self._most = fleet, outcomes, metrics, most
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, candidate: str, asked: GatewayRequest, tenant: Tenant, generation: int, live: str) -> None:
        """Ask in the background; `live`: the answer to compare with. The tenant is not charged."""
        if len(self._tasks) >= self._most:
            self._metrics.shadows.labels("left out").inc()
            return
        task = asyncio.create_task(self._run(candidate, asked, tenant, generation, live))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, candidate: str, asked: GatewayRequest, tenant: Tenant, generation: int, live: str
    ) -> None:
        try:
            place, path = await self._fleet.place_for(candidate)
        except ApiError as error:
            self._metrics.shadows.labels("refused").inc()
            log.warning("shadow: %s", error)
            return
        if not place.line.idle:
            self._metrics.shadows.labels("left out").inc()
            return
        began = time.monotonic()
        tally = TokenUsage(asked, keep_text=True)
        place.line.enter()
        try:
            async with place.lend(candidate, path) as name:
                tally.whole(await _answer(place, asked, name, tenant.salt))
        except (aiohttp.ClientError, TimeoutError, ServingError) as error:
            tally.failed = True
            log.warning("shadow to %s: %s", candidate[:12], frames(error))
        finally:
            place.line.leave(tally.first is not None)
        self._metrics.shadows.labels("failed" if tally.failed else "answered").inc()
        self._outcomes.add(RequestOutcome(
            tenant.channel, generation, candidate, "shadow", tally.failed, tally.reason,
            tally.prompt_tokens or 0, tally.completion_tokens or 0, time.monotonic() - began, None,
            agreed=None if tally.failed else "".join(tally.texts) == live,
        ))  # fmt: skip


async def _answer(place: Replica, asked: GatewayRequest, name: str, salt: str) -> bytes:
    whole = place.body(asked, name, salt)
    body = {key: value for key, value in whole.items() if key not in ("stream", "stream_options")}
    route = "/v1/chat/completions" if asked.chat else "/v1/completions"
    async with place.http.post(f"http://engine{route}", json=body) as answer:
        return await answer.read()
