"""A gateway whose engine is a process that answers by rote and writes down all that it was asked.

    python -m tests.serving.gateway.recording_engine CONFIG RECORD STATE

The gateway is the real one. On SIGUSR1 it writes what it holds into the file STATE.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from registry import Registry
from serving.engine.naming import model_alias
from serving.gateway import server
from serving.gateway.config import EngineSection, ServeConfig
from serving.gateway.router import Router

FLOOD = "Tell me everything."
"""What is answered for as long as somebody listens."""
LENGTHY = "Answer with so many letters:"
_USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


class Recording:
    """In the place of an engine: `serving.engine.protocol.Engine`, with any adapter loaded at once."""

    def __init__(self, artifact_id: str, record: Path, slots: int) -> None:
        self.base, self.slots, self.record = model_alias(artifact_id), slots, record
        self.loaded: dict[str, str] = {}
        self.restarts = 0
        self.socket = Path(tempfile.mkdtemp(prefix="tuneline-")) / "api"
        self.up = False

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.serving.gateway.recording_engine"),
            *("--engine", str(self.socket), str(self.record)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        await self._process.stdout.readline()
        self.up = True

    async def load_adapter(self, digest: str, path: Path) -> str:
        self.loaded[digest] = model_alias(digest)
        return self.loaded[digest]

    async def unload_adapter(self, digest: str) -> None:
        self.loaded.pop(digest, None)

    async def health(self) -> dict[str, Any]:
        return {"status": "ok"}

    async def stop(self) -> None:
        self._process.terminate()
        await self._process.wait()
        self.socket.unlink(missing_ok=True)
        self.socket.parent.rmdir()


async def answer(request: web.Request) -> web.StreamResponse:
    """By rote; what was asked is in the record first."""
    body = await request.read()
    line = {"path": request.path, "headers": dict(request.headers), "body": body.decode()}
    with request.app["record"].open("a") as file:
        file.write(json.dumps(line) + "\n")
    asked = json.loads(body)
    _, lengthy, size = str(asked.get("messages")).partition(LENGTHY)
    text = "a" * int(size.strip("' ]}")) if lengthy else "Yes."
    choice = {"index": 0, "finish_reason": "stop", "text": text, "message": {"content": text}}
    if not asked.get("stream"):
        return web.json_response({"choices": [choice], "usage": _USAGE})
    stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await stream.prepare(request)
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": "Yes. " * 400}}]}).encode()
    with contextlib.suppress(ConnectionError):
        while FLOOD in body.decode():
            await stream.write(b"data: " + event + b"\n\n")
        usage = json.dumps({"choices": [], "usage": _USAGE}).encode()
        await stream.write(b"data: " + event + b"\n\ndata: " + usage + b"\n\ndata: [DONE]\n\n")
    return stream


async def engine(socket: str, record: str) -> None:
    """Answer until whoever started this is gone."""
    app = web.Application(client_max_size=1 << 24)
    app["record"] = Path(record)
    app.router.add_post("/{any:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)


def gateway(config: Path, record: Path, state: Path) -> None:
    """The real one, but for its engine."""
    routers: list[Router] = []

    def make(section: EngineSection, artifact_id: str, *_: Any) -> Recording:
        return Recording(artifact_id, record, section.adapters)

    def router(*given: Any) -> Router:
        routers.append(Router(*given))
        return routers[0]

    def tell() -> None:
        (replica,) = routers[0].replicas
        draft = state.with_suffix(".draft")
        tasks = len(asyncio.all_tasks())
        held = {"tasks": tasks, "inside": replica.queue.inside, "users": sum(replica.pool._users.values())}
        draft.write_text(json.dumps(held))
        draft.rename(state)

    def announce(url: str, operations: str) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
        print(json.dumps({"url": f"{url}/v1", "operations": operations}), flush=True)

    server.Router = router  # type: ignore[assignment,misc]  # to look into it
    server.log_to_stderr(logging.INFO)
    with Registry.open(Path(os.environ["TUNELINE_HOME"])) as registry:
        found = ServeConfig.model_validate(yaml.safe_load(config.read_text()))
        server.run(found, registry, announce, make)


if __name__ == "__main__":
    if sys.argv[1] == "--engine":
        asyncio.run(engine(*sys.argv[2:]))
    else:
        gateway(*map(Path, sys.argv[1:]))
