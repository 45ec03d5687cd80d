"""What a gateway does about connections: how many, how slow, and bytes that are not HTTP."""

from __future__ import annotations

import asyncio
import logging
import resource

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from serving.gateway.app import App
from serving.gateway.config import Bounds

log = logging.getLogger("tuneline.gateway")

KEEPALIVE_SECONDS = 75.0
SPARE_FILES = 256
"""For the registry, the engines and the libraries."""


class ConnectionLimits(web.Server):
    """aiohttp's server without what a gateway has no use for."""

    def __init__(self, app: App, bounds: Bounds) -> None:
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            auto_decompress=False,
            max_line_size=4096,
            max_field_size=8190,
        )
        self.app, self.bounds = app, bounds
        allow_files(2 * bounds.connections + SPARE_FILES)

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    """Cut where its first headers do not come in time, nobody reads the answer, or there are too many."""

    _patience: asyncio.TimerHandle | None = None
    _heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(self._manager, ConnectionLimits)
        self._limits = self._manager
        self._wire = transport
        super().connection_made(transport)
        if len(self._limits.connections) > self._limits.bounds.connections:
            self.force_close()
        else:
            self._cut_in(self._limits.bounds.header_seconds)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._heard and self._request_count:  # its headers have come
            self._heard = True
            self._stay()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_in(self._limits.bounds.write_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stay()

    async def start(self) -> None:
        """Answer its requests; what was written last gets time to be read, but not for ever."""
        try:
            await super().start()
        finally:
            if self._manager is not None:
                self._cut_in(self._limits.bounds.write_seconds)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stay()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are not HTTP. aiohttp would log them, and a key may be among them."""
        response = self._limits.app.malformed(request, (message or "").partition(":")[0].strip())
        response.force_close()
        return response

    def _cut_in(self, seconds: float) -> None:
        self._stay()
        # not closed: that would wait until everything has been sent
        self._patience = asyncio.get_running_loop().call_later(seconds, self._wire.abort)  # type: ignore[attr-defined]

    def _stay(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def allow_files(wanted: int) -> None:
    """Raise this process's limit of open files towards `wanted`; connections beyond it would be refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        message = (
            "this process may open %d files, bounds.connections may need %d: raise `ulimit -n`, or lower that"
        )
        log.warning(message, most, wanted)
