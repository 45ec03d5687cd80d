"""Scripts and styles: read once, under an address that holds their digest, so that a browser keeps them."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


class StaticFile(NamedTuple):
    body: bytes
    compressed: bytes
    digest: str
    media_type: str


@cache
def read(name: str) -> StaticFile | None:
    """The file of this name, or None where it is not one of ours."""
    path = FOLDER / name
    if Path(name).name != name or path.suffix not in _TYPES or not path.is_file():
        return None
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:16]
    return StaticFile(body, gzip.compress(body, 9, mtime=0), digest, _TYPES[path.suffix])


def address(name: str) -> str:
    """Where a file is found; raises FileNotFoundError, as a page that names a missing one is a defect."""
    file = read(name)
    if file is None:
        raise FileNotFoundError(FOLDER / name)
    return f"/static/{file.digest}/{name}"


def _static(request: Request) -> Response:
    file = read(request.path_params["name"])
    if file is None:
        return Response("no such file", 404, media_type="text/plain")
    # Without the digest of what it holds now, as in an old page, it is right but must not be kept.
    current = request.path_params.get("digest") == file.digest
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache"}
    headers["Vary"] = "Accept-Encoding"
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            file.compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.media_type
        )
    return Response(file.body, headers=headers, media_type=file.media_type)


routes = [Route("/static/{digest}/{name}", _static), Route("/static/{name}", _static)]
