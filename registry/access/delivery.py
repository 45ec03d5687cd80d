"""Telling webhooks: each delivery signed, tried again with longer and longer waits, to no private address.

A receiver gets a POST with a JSON body and

    Tuneline-Delivery: ID                   the same for every attempt
    Tuneline-Event: promotion
    Tuneline-Signature: t=SECONDS,v1=HEX    HMAC-SHA256 of `SECONDS.BODY` with the webhook's secret

and answers 2xx within `SECONDS`. Redirects are not followed. A name is looked up for each attempt, its
addresses are checked, and the connection goes to the address that was checked.

An address `prefect:TYPE/NAME` is a block of Prefect's, which whoever delivers has to tell.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from registry.access.addresses import BLOCK, check_url, is_public
from registry.access.webhooks import Claimed, Webhooks
from registry.errors import InvalidWebhook, RegistryError

log = logging.getLogger("tuneline.webhooks")

SECONDS = 10.0
"""For one attempt, from the look-up of the name to the answer."""
ATTEMPTS = 15
"""After which a delivery is given up: with the waits below, after 12 to 24 hours."""
FIRST_WAIT, LONGEST_WAIT = 10.0, 6 * 3600.0
AT_ONCE = 16
LOOKED_EVERY = 2.0
"""Seconds between two looks at the outbox."""
CLAIMED_SECONDS = 6 * SECONDS
"""How long nobody else attempts a delivery."""
Notify = Callable[[str, str], Awaitable[str | None]]
"""Tells a block, `TYPE/NAME[?to=…]`, of a body within `CLAIMED_SECONDS`; what went wrong, if anything did."""


def signature(secret: str, at: int, body: bytes) -> str:
    """The header `Tuneline-Signature`; `at` is in seconds since the epoch, to be refused when it is old."""
    mac = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


def wait(attempts: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt after so many: doubled each time, of which the last half by chance."""
    return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempts - 1)) * (0.5 + chance() / 2))


async def deliver_due(webhooks: Webhooks, notify: Notify | None = None) -> int:
    """Attempt every delivery that is due now, once; returns how many. Raises RegistryError."""
    attempted = 0
    while claimed := await asyncio.to_thread(webhooks.claim, CLAIMED_SECONDS, AT_ONCE):
        await asyncio.gather(*(_attempt(webhooks, delivery, notify) for delivery in claimed))
        attempted += len(claimed)
    return attempted


async def deliver_forever(webhooks: Webhooks, notify: Notify | None = None) -> None:
    """Deliver what comes to be due, until it is cancelled. Several processes may do so at once."""
    while True:
        try:
            if await asyncio.to_thread(webhooks.due):
                await deliver_due(webhooks, notify)
        except RegistryError as error:
            log.error("webhook deliveries are delayed: %s", error)
        await asyncio.sleep(LOOKED_EVERY)


async def _attempt(webhooks: Webhooks, delivery: Claimed, notify: Notify | None) -> None:
    if not delivery.url.startswith(BLOCK):
        answer, error = await _post(delivery)
    elif notify is None:
        answer, error = None, "this process tells no Prefect blocks; `tuneline webhooks deliver` does"
    else:
        answer, error = None, await notify(delivery.url.removeprefix(BLOCK), delivery.body)
    attempts = delivery.attempts + 1
    retry_at = time.time() + wait(attempts) if attempts < ATTEMPTS else None
    if error is not None:
        log.warning("delivery %s (%s), attempt %d: %s", delivery.id, delivery.event, attempts, error)
    await asyncio.to_thread(webhooks.settle, delivery, answer, error, retry_at)


async def _post(delivery: Claimed) -> tuple[int | None, str | None]:
    """The HTTP status, if there was one, and what went wrong, if anything did."""
    body, at = delivery.body.encode(), int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tuneline-webhooks",
        "Tuneline-Delivery": delivery.id,
        "Tuneline-Event": delivery.event,
        "Tuneline-Signature": signature(delivery.secret, at, body),
    }
    connector = aiohttp.TCPConnector(resolver=_Checked(delivery.private), use_dns_cache=False)
    limit = aiohttp.ClientTimeout(total=SECONDS)
    try:
        check_url(delivery.url, delivery.private)  # an address in digits is not looked up
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as session,
            session.post(delivery.url, data=body, headers=headers, allow_redirects=False) as reply,
        ):
            status = reply.status
    except InvalidWebhook as error:
        return None, str(error)
    except TimeoutError:
        return None, f"no answer within {SECONDS:.0f} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"[:500]
    return status, None if 200 <= status < 300 else f"expected a 2xx answer, got {status}"


class _Checked(AbstractResolver):
    """Looks a name up and leaves out private addresses; aiohttp connects to what this returns."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        allowed = [address for address in results if self._private or is_public(address["host"])]
        if not allowed:
            raise OSError(
                errno.EACCES,
                f"{host} is on this machine or its network "
                f"({', '.join(address['host'] for address in results)}), "
                "which was not allowed for this webhook",
            )
        return allowed

    async def close(self) -> None:
        await self._resolver.close()
