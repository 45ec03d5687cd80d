"""Tuneline's gateway in front of an engine that somebody else started: `… HOME SOCKET PORT`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from registry import Registry
from serving.gateway.config import ServeConfig
from serving.gateway.server import log_to_stderr, run


class Instant:
    """`serving.engine.protocol.Engine`, on a socket that answers whatever the model is called."""

    base, slots, up, restarts = "instant", 64, True, 0

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.loaded: dict[str, str] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def load_adapter(self, digest: str, path: Path) -> str:
        self.loaded[digest] = f"instant-{digest[:12]}"
        return self.loaded[digest]

    async def unload_adapter(self, digest: str) -> None:
        self.loaded.pop(digest, None)

    async def health(self) -> dict[str, Any]:
        return {}


def main() -> None:
    home, socket, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = ServeConfig.model_validate({
        "gateway": {"port": port}, "operations": {"port": 0},
        "engines": [{"engine": "llama.cpp", "model": "pico-base@1", "parallel": 64, "queue": 1024}],
    })  # fmt: skip
    log_to_stderr(logging.INFO if "--log" in sys.argv else logging.WARNING)
    with Registry.open(home) as registry:
        run(
            config,
            registry,
            lambda url, _: print(json.dumps(url), flush=True),
            make=lambda *_: Instant(socket),
        )


if __name__ == "__main__":
    main()
