"""Tenants, keys, channels and rollouts, as the registry had them a moment ago."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from registry import Registry
from registry.errors import RegistryError
from registry.tenancy.snapshot import ServingState
from registry.tenancy.tenants import TenantKey
from serving.openai_api.errors import ApiError

log = logging.getLogger("tuneline.gateway")

EVERY_SECONDS = 0.5


class Directory:
    """Reads the registry every half second, and goes on with what it knows when the registry is away."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._version: object = None
        self._task: asyncio.Task[None] | None = None
        self._read = 0.0
        self.state: ServingState

    async def start(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Read once, then keep reading; `changed` is awaited after each change.

        Raises RegistryError when the first reading fails.
        """
        await self._refresh()
        self._task = asyncio.create_task(self._keep(changed))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def age(self) -> float:
        """Seconds since the registry answered."""
        return time.monotonic() - self._read

    def key(self, authorization: str) -> TenantKey:
        """The key in an `Authorization` header. Raises `ApiError`: 401, or 403 for an ended key."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError("expected the header `Authorization: Bearer KEY`", None, 401, "missing_api_key")
        # Only digests are compared: how long that takes tells nothing about a key.
        record = self.state.keys.get(hashlib.sha256(key.strip().encode("utf-8", "replace")).hexdigest())
        if record is None:
            raise ApiError("this key is unknown, or was revoked", None, 401, "invalid_api_key")
        if record.expires is not None and record.expires <= datetime.now(UTC):
            raise ApiError(f"key {record.id} has expired; use the newer one", None, 403, "expired_api_key")
        return record

    async def _keep(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                if await self._refresh():
                    await changed()
            except RegistryError as error:
                log.error("the registry did not answer; continuing with its last known state: %s", error)
            except Exception:
                log.exception("taking over a change of the registry")

    async def _refresh(self) -> bool:
        """Whether something changed."""
        version = await asyncio.to_thread(self._registry.serving_version)
        if version != self._version:
            self.state = await asyncio.to_thread(self._registry.serving_state)
            changed, self._version = True, version
        else:
            changed = False
        self._read = time.monotonic()
        return changed
