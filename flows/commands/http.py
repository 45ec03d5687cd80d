"""Serve an ASGI application until a signal ends it: what `tuneline api` and `tuneline ui` have in common."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from flows.errors import Usage
from serving.process.process import listen

GRACE_SECONDS = 5
"""For answers under way when the server is asked to end."""


class _Server(uvicorn.Server):
    """Says that it ends before it waits for what it still answers."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    listening: Callable[[str], None],
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Serve `app`; `listening` gets its URL once it listens. Returns after SIGTERM or SIGINT.

    `ending`: called in the event loop as the server ends; it waits then for answers under way.

    Raises Usage for a port that does not exist, PortTaken.
    """
    if not 0 <= port <= 65535:
        raise Usage(f"--port {port}: expected 0 (a free one) to 65535")
    with listen(host, port) as listener:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        # asyncio leaves this out for a socket that does not say it is TCP; each answer would wait 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address, number = listener.getsockname()[:2]
        listening(f"http://{f'[{address}]' if ':' in address else address}:{number}")
        _run(_Server(config, ending), listener)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more; here that is how one ends it, not a failure.
    kept = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
