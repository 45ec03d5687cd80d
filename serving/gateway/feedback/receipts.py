"""Answers to tenants that agreed, on their way to the registry, and what the tenants say of them.

An ended request only adds to a list in memory; redaction and writing happen in a thread, every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from registry import Registry
from registry.errors import AlreadyExists, InvalidFeed, InvalidTenant, NoConsent, NotFound, RegistryError
from registry.feeds.traffic import Feedback, Receipt
from registry.tenancy.consents import Consent
from serving.gateway.feedback.body import read
from serving.gateway.feedback.control_tokens import ControlTokens
from serving.gateway.relay import TokenUsage
from serving.gateway.request_policy import GatewayRequest
from serving.gateway.rollout.decision import RoutingDecision
from serving.openai_api.errors import ApiError
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")

T = TypeVar("T")

EVERY_SECONDS = 2.0
SWEEP_SECONDS = 600.0
"""Between two looks for words whose time is over."""
MOST = 10_000
"""Receipts that wait; of a gateway that gathers more in so short a time, the others are left out."""
MOST_WORDS = 64 * 2**20
"""Characters that wait; a receipt beyond them comes without its words."""
_ROLES = frozenset({"system", "user", "assistant"})
_BESIDE = frozenset({"name", "reasoning_content"})
"""What a message may have beside role and content, and no feed's row has."""
_NO_CONSENT = (
    "this tenant's requests are not recorded, so feedback on them is not accepted; the operator records its "
    "consent with `tuneline tenants consent`"
)


class Receipts:
    """Of one gateway."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._control = ControlTokens(registry)
        self._waiting: list[Receipt] = []
        self._words = 0
        self._left_out = 0
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        # One of its own: where the database is slow, feedback would take the threads that requests need.
        self._thread = ThreadPoolExecutor(1, "feedback")

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        self._thread.shutdown(wait=False)

    def sampled(self, consent: Consent | None, request: GatewayRequest) -> bool:
        """Whether the words of this request are to be kept: of chats in plain words, with one answer."""
        messages = request.messages or ()
        roles = {message["role"] for message in messages}
        plain = roles <= _ROLES and not any(message.keys() & _BESIDE for message in messages)
        asks = any(message["role"] == "user" for message in messages)
        if consent is None or not asks or not plain or request.n != 1:
            return False
        return random.random() < consent.sample

    def add(
        self,
        request_id: str,
        key_id: str,
        consent: Consent,
        channel: str,
        decision: RoutingDecision,
        usage: TokenUsage,
        sampled: bool,
    ) -> None:
        """Keep the receipt of an answer that was given whole. Does not wait."""
        if decision.arm == "shadow" or len(self._waiting) >= MOST:
            self._left_out += 1
            return
        answer, messages = "".join(usage.texts), usage.request.messages
        words = len(answer) + usage.request.size
        kept = sampled and messages is not None and self._words + words <= MOST_WORDS
        kept = kept and not usage.request.calls and not usage.thought  # a feed's rows are roles and contents
        self._words += words if kept else 0
        asked = [{"role": m["role"], "content": m["content"]} for m in messages or ()] if kept else None
        receipt = Receipt(
            request_id, key_id, consent, channel, decision.artifact_id, decision.arm, datetime.now(UTC),
            asked, answer if kept else None,
        )  # fmt: skip
        self._waiting.append(receipt)

    async def take(self, key_id: str, consent: Consent | None, body: bytes) -> dict[str, object]:
        """Keep what a client says of an answer. Raises `ApiError`; it tells nobody of others' requests."""
        if consent is None:
            raise ApiError(_NO_CONSENT, None, 403, "no_consent")
        feedback = read(body)
        await self.flush()  # the answer may have been given a moment ago
        try:
            rows = await self._in_thread(
                lambda: self._registry.traffic.give(key_id, feedback, self._control.of)
            )
        except RegistryError as error:
            raise _refused(error) from None
        return _answer(feedback, rows)

    async def flush(self) -> None:
        """Write what waits; what cannot be written is lost, and the log says how much."""
        async with self._writing:
            receipts, self._waiting = self._waiting, []
            self._words = 0
            if self._left_out:
                log.warning("receipts of %d answers were left out: too many at once", self._left_out)
                self._left_out = 0
            if not receipts:
                return
            try:
                await self._in_thread(lambda: self._registry.traffic.keep(receipts))
            except Exception as error:  # whatever it is, the next ones are to be written
                log.error("receipts of %d answers were not written: %s", len(receipts), _why(error))

    async def _keep(self) -> None:
        swept = time.monotonic() - SWEEP_SECONDS
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.flush()
            if time.monotonic() - swept >= SWEEP_SECONDS:
                swept = time.monotonic()
                await self._sweep()

    async def _sweep(self) -> None:
        """Remove words that were to be kept until now."""
        try:
            await self._in_thread(self._registry.forgettings.expire)
        except Exception as error:  # likewise
            log.error("words whose time is over are still kept: %s", _why(error))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What it returns; it is done also where nobody waits for it any more."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, RegistryError) else frames(error)


def _refused(error: RegistryError) -> ApiError:
    if isinstance(error, NoConsent):
        return ApiError(_NO_CONSENT, None, 403, "no_consent")
    if isinstance(error, InvalidTenant):
        return ApiError("this key is unknown, or was revoked", None, 401, "invalid_api_key")
    if isinstance(error, NotFound):
        return ApiError(f"request_id: {error}", "request_id", 404, "request_not_found")
    if isinstance(error, AlreadyExists):
        return ApiError(f"request_id: {error}", "request_id", 409, "already_given")
    if isinstance(error, InvalidFeed):
        return ApiError(str(error), "correction", 400, "invalid_value")
    log.error("feedback: %s", error)
    return ApiError("the registry cannot be written now; try again", None, 503, "unavailable")


def _answer(feedback: Feedback, rows: int) -> dict[str, object]:
    """`rows`: how many came of it; none where the request's words were not kept."""
    return {"object": "feedback", "request_id": feedback.request, "rows": rows}
