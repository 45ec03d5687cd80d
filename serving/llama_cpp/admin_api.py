"""The engine's door for whoever runs it, as an ASGI application.

`POST /adapters`, `DELETE /adapters/NAME`, `GET /adapters`, `GET /health`. Nothing in it authenticates: it
belongs on a Unix socket that only its owner may open.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.errors import AdapterRefused, NotServable, Overloaded, ServingError, UnknownModel
from serving.llama_cpp.api import body_of, health_of, refused
from serving.llama_cpp.loaded_adapters import LoadedAdapter
from serving.llama_cpp.scheduler import Batcher
from serving.openai_api.errors import ApiError

STATUS = {UnknownModel: 404, AdapterRefused: 409, NotServable: 400, Overloaded: 429}


class Control:
    """Loads and unloads adapters, and says how the engine is."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/adapters", self.loaded, methods=["GET"]),
            Route("/adapters", self.load, methods=["POST"]),
            Route("/adapters/{name}", self.unload, methods=["DELETE"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={ServingError: _serving_error, ApiError: refused})

    async def loaded(self, _: Request) -> Response:
        return JSONResponse({"adapters": [_described(one) for one in self.batcher.residents if one.adapter]})

    async def load(self, request: Request) -> Response:
        try:
            given = json.loads(await body_of(request))
            name, digest, path = (str(given[key]) for key in ("name", "digest", "path"))
        except (ValueError, KeyError, TypeError) as error:
            raise NotServable(f"expected an object with name, digest and path ({error!r})") from None
        future = self.batcher.load(name, digest, Path(path))
        return JSONResponse(_described(await asyncio.wrap_future(future)))

    async def unload(self, request: Request) -> Response:
        await asyncio.wrap_future(self.batcher.unload(request.path_params["name"]))
        return JSONResponse({})

    async def health(self, _: Request) -> Response:
        return health_of(self.batcher)


def _described(resident: LoadedAdapter) -> dict[str, Any]:
    return {"name": resident.name, "digest": resident.digest, "effect": resident.effect}


async def _serving_error(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error), "kind": type(error).__name__}, status)
