"""`tuneline api`: serve the registry's HTTP API until a signal ends it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import socket
from types import FrameType

import uvicorn

from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.errors import Usage
from flows.settings import Settings
from registry.api.app import application
from serving.process.process import listen

SHORTEST_TOKEN = 16
"""Characters; less could be guessed."""
GRACE_SECONDS = 5
"""For answers under way when the server is asked to end."""


def api(arguments: argparse.Namespace) -> Reply:
    """Serve the API; says where as soon as it listens, and returns after SIGTERM or SIGINT.

    Raises Usage for an address that others can reach while no token is set, PortTaken, RegistryError.
    """
    token = _token(Settings())
    if token is None and not _is_loopback(arguments.host):
        raise Usage(
            f"--host {arguments.host} can be reached from other machines; set TUNELINE_API_TOKEN to a secret "
            f"of at least {SHORTEST_TOKEN} characters (`openssl rand -hex 24` makes one), or use 127.0.0.1"
        )
    if not 0 <= arguments.port <= 65535:
        raise Usage(f"--port {arguments.port}: expected 0 (a free one) to 65535")
    with open_registry() as registry, listen(arguments.host, arguments.port) as listener:
        config = uvicorn.Config(
            application(registry, token),
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        # asyncio leaves this out for a socket that does not say it is TCP; each answer would wait 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address, port = listener.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        document = {
            "url": url,
            "openapi": f"{url}/openapi.json",
            "token": token is not None,
            "pid": os.getpid(),
        }
        with_token = " with the token of TUNELINE_API_TOKEN" if token else ""
        message = f"tuneline api: {url}/v1{with_token}; {url}/openapi.json describes it; Ctrl-C ends it"
        print(json.dumps(document) if arguments.json else message, flush=True)
        _run(server, listener)
    return Reply(None, lambda: None)


def _run(server: uvicorn.Server, listener: object) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more; here that is how one ends it, not a failure.
    kept = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])  # type: ignore[list-item]
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _token(settings: Settings) -> str | None:
    if settings.api_token is None:
        return None
    token = settings.api_token.get_secret_value()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Usage(
            f"TUNELINE_API_TOKEN has {len(token)} characters; expected at least {SHORTEST_TOKEN}, printable "
            "ASCII without spaces, such as `openssl rand -hex 24` makes; unset it to serve this machine only"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
