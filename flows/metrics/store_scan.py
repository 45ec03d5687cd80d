"""What the store holds, counted in a thread of its own: a look at each file can take longer than a scrape."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass

from registry.errors import RegistryError
from registry.store.store import Store

log = logging.getLogger("tuneline.metrics")

EVERY_SECONDS = 60.0
"""Between the end of a count and the next; an object store has to list all its keys for one."""


@dataclass(frozen=True)
class StoreCount:
    """Blobs and their bytes, counted at the time `at` (seconds since the epoch)."""

    blobs: int
    bytes: int
    at: float


class StoreScan:
    """Counts when it is asked and the last count is old; never keeps who asks waiting."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._next = 0.0
        self._count: StoreCount | None = None

    def latest(self) -> StoreCount | None:
        """The last count; None before the first is done, or where the store cannot be read."""
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and time.monotonic() >= self._next:
            self._thread = threading.Thread(target=self._scan, name="store count", daemon=True)
            self._thread.start()
        return self._count

    def disk(self) -> tuple[int, int] | None:
        """Bytes of the disk that the store, or its cache here, is on: free and in all."""
        try:
            usage = shutil.disk_usage(self._store.folder)
        except OSError:
            return None
        return usage.free, usage.total

    def close(self) -> None:
        """Wait for a count under way."""
        if self._thread is not None:
            self._thread.join()

    def _scan(self) -> None:
        blobs = size = 0
        try:
            for blob in self._store.stored():
                blobs += 1
                size += blob.size
            self._count = StoreCount(blobs, size, time.time())
        except (RegistryError, OSError) as error:
            log.warning("the store is not counted: %s", error)
            self._count = None
        self._next = time.monotonic() + EVERY_SECONDS
