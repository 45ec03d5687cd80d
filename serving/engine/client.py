"""The HTTP client that asks engines on Unix sockets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx


def over_socket(socket: Path, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """Requests to the engine that listens there; none of them is given up by itself."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None))
    return httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers, timeout=None)
