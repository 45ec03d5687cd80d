"""The same question to a candidate, after the live artifact has answered; only what came of it is kept."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import replace

import aiohttp

from registry.tenancy.tenants import Tenant
from serving.errors import ServingError
from serving.gateway.metrics import Metrics
from serving.gateway.relay import TokenUsage
from serving.gateway.request_policy import GatewayRequest
from serving.gateway.rollout.outcomes import OutcomeRecorder, RequestOutcome
from serving.gateway.router import Router
from serving.openai_api.errors import ApiError
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")


class Shadows:
    """A few at a time, only on engines with room to spare; the others are left out, and counted."""

    def __init__(self, router: Router, outcomes: OutcomeRecorder, metrics: Metrics, most: int) -> None:
        self._router, self._outcomes, self._metrics, self._most = router, outcomes, metrics, most
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(
        self, candidate: str, request: GatewayRequest, tenant: Tenant, generation: int, live: str
    ) -> None:
        """Ask in the background; `live`: the answer to compare with. The tenant is not charged."""
        if len(self._tasks) >= self._most:
            self._metrics.shadows.labels("left out").inc()
            return
        task = asyncio.create_task(self._run(candidate, request, tenant, generation, live))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, candidate: str, request: GatewayRequest, tenant: Tenant, generation: int, live: str
    ) -> None:
        try:
            replica, path = await self._router.replica_for(candidate)
        except ApiError as error:
            self._metrics.shadows.labels("refused").inc()
            log.warning("shadow: %s", error)
            return
        if not replica.queue.idle:
            self._metrics.shadows.labels("left out").inc()
            return
        began = time.monotonic()
        usage = TokenUsage(replace(request, stream=False), keep_text=True)
        try:
            replica.queue.enter(request.n)
        except ApiError:  # so many answers have no room now
            self._metrics.shadows.labels("left out").inc()
            return
        try:
            async with (
                replica.acquire(candidate, path) as name,
                replica.ask(usage.request, name, tenant.salt, uuid.uuid4().hex) as answer,
            ):
                usage.whole(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ServingError) as error:
            usage.failed = True
            log.warning("shadow to %s: %s", candidate[:12], frames(error))
        finally:
            replica.queue.leave(usage.first is not None, request.n)
        self._metrics.shadows.labels("failed" if usage.failed else "answered").inc()
        tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
        of, seconds = (tenant.channel, generation, candidate), time.monotonic() - began
        agreed = None if usage.failed else "".join(usage.texts) == live
        self._outcomes.add(
            RequestOutcome(*of, "shadow", usage.failed, usage.reason, *tokens, seconds, None, agreed)
        )
