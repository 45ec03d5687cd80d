"""Rows for a feed over HTTP, from whoever has an operator's token."""

from __future__ import annotations

import json

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.ui.changes import read_operators_body, who
from flows.ui.pages import registry_of
from registry.errors import InvalidFeed
from registry.feeds.rows import NewRow, chat

MOST_BYTES = 16 * 2**20


async def _rows(request: Request) -> Response:
    """Add JSON lines of {"messages": […]}, all or none; what came before does not come again."""
    too_large = f"the rows are larger than {MOST_BYTES:,} bytes; send them in parts"
    body = await read_operators_body(request, MOST_BYTES, too_large)
    name = request.path_params["name"]
    return JSONResponse(await anyio.to_thread.run_sync(_add, request, name, body))


def _add(request: Request, name: str, body: bytes) -> dict[str, object]:
    try:
        lines = body.decode("utf-8").split("\n")  # `splitlines` would also cut texts, at U+2028 and others
        rows = [_row(line, f"line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise InvalidFeed("expected lines of JSON, each with messages; found none")
        return registry_of(request).feeds.add(name, rows, who(request)).model_dump(mode="json")
    except UnicodeDecodeError:
        raise HTTPException(422, "the rows are not UTF-8") from None
    except InvalidFeed as error:
        raise HTTPException(422, f"{error}; nothing was added") from None


def _row(line: str, where: str) -> NewRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidFeed(f"{where}: malformed JSON: {error}") from None
    if not isinstance(row, dict) or set(row) != {"messages"}:
        raise InvalidFeed(f"{where}: expected an object with messages, and nothing else")
    return chat(row["messages"], where, "http")


routes = [Route("/feeds/{name}/rows", _rows, methods=["POST"])]
