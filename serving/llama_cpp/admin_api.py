"""What whoever runs the engine may ask, as an ASGI application.

`POST /adapters`, `DELETE /adapters/NAME`, `GET /adapters`, `GET /health`. Nothing in it authenticates: it
belongs on a Unix socket that only its owner may open.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.errors import AdapterRefused, NotServable, Overloaded, ServingError, UnknownModel
from serving.llama_cpp.api import health_of, refused
from serving.llama_cpp.loaded_adapters import LoadedAdapter
from serving.llama_cpp.scheduler import Batcher
from serving.openai_api.body import collect
from serving.openai_api.errors import ApiError
from serving.openai_api.request import MOST_BYTES

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
        adapters = [_described(adapter) for adapter in self.batcher.loaded if adapter.handle]
        return JSONResponse({"adapters": adapters})

    async def load(self, request: Request) -> Response:
        try:
            body = json.loads(await collect(request.stream(), MOST_BYTES))
            name, digest, path = (str(body[key]) for key in ("name", "digest", "path"))
        except (ValueError, KeyError, TypeError) as error:
            raise NotServable(f"expected an object with name, digest and path ({error!r})") from None
        future = self.batcher.load(name, digest, Path(path))
        return JSONResponse(_described(await asyncio.wrap_future(future)))

    async def unload(self, request: Request) -> Response:
        await asyncio.wrap_future(self.batcher.unload(request.path_params["name"]))
        return JSONResponse({})

    async def health(self, _: Request) -> Response:
        return health_of(self.batcher)


def _described(adapter: LoadedAdapter) -> dict[str, str | float]:
    return {"name": adapter.name, "digest": adapter.digest, "effect": adapter.effect}


async def _serving_error(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error), "kind": type(error).__name__}, status)
