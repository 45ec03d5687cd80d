"""A proxy in front of a server on loopback that fails as networks and object stores do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from tests.seconds import seconds

Conduct = Callable[["Proxy", socket.socket], None]
"""What happens on one connection from a client."""


class Proxy:
    """Each new connection is met with the next planned conduct, and with `otherwise` when none is left."""

    def __init__(self, target: str, *planned: Conduct, otherwise: Conduct | None = None) -> None:
        address = urlsplit(target)
        self.target = (address.hostname or "", address.port or 0)
        self.planned = list(planned)
        self.otherwise = otherwise or forward
        self.connections = 0
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(seconds(10))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            conduct = self.planned.pop(0) if self.planned else self.otherwise
            thread = threading.Thread(target=self._meet, args=(conduct, client))
            self._threads.append(thread)
            thread.start()

    def _meet(self, conduct: Conduct, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(0.1)
            conduct(self, client)


def forward(proxy: Proxy, client: socket.socket) -> None:
    """Pass everything on."""
    cut_after(None)(proxy, client)


def cut_after(limit: int | None, then: Callable[[], None] = lambda: None) -> Conduct:
    """Pass on `limit` bytes of what the client sends, call `then`, and hang up."""

    def conduct(proxy: Proxy, client: socket.socket) -> None:
        sent = 0
        with socket.create_connection(proxy.target) as server:
            server.settimeout(0.1)
            back = threading.Thread(target=_pump, args=(proxy, server, client))
            back.start()
            while not proxy.ended.is_set() and (piece := _receive(client)) != b"":
                if piece:
                    server.sendall(piece)
                    sent += len(piece)
                if limit is not None and sent >= limit:
                    then()
                    break
            server.shutdown(socket.SHUT_RDWR)
            back.join(seconds(10))

    return conduct


def answer(status: str, code: str = "InternalError") -> Conduct:
    """Read the head of a request and answer with an error of S3's form."""

    def conduct(_: Proxy, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (piece := _receive(client)) != b"":
            head += piece or b""
        body = f"<Error><Code>{code}</Code><Message>planned by the test</Message></Error>".encode()
        client.sendall(
            f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )

    return conduct


def silence(proxy: Proxy, _: socket.socket) -> None:
    """Say nothing until the test ends."""
    proxy.ended.wait(seconds(60))


def _pump(proxy: Proxy, source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while not proxy.ended.is_set() and (piece := _receive(source)) != b"":
            if piece:
                sink.sendall(piece)
        sink.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket) -> bytes | None:
    """Bytes, none at the end, or None when nothing came for a moment."""
    try:
        return source.recv(65536)
    except TimeoutError:
        return None
