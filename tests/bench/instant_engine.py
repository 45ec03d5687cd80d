"""An engine that answers at once, so that what is before it can be measured.

    python -m tests.bench.instant_engine --socket PATH [--port N]

speaks OpenAI's protocol with a fixed answer of 16 tokens, streamed or not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import uvloop
from aiohttp import web

TOKENS = 16
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "instant"}
_USAGE = {"prompt_tokens": 34, "completion_tokens": TOKENS, "total_tokens": 34 + TOKENS}
_MESSAGE = {"role": "assistant", "content": "word " * TOKENS}
_WHOLE = json.dumps({
    **_HEAD, "object": "chat.completion", "usage": _USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "message": _MESSAGE}],
}).encode()  # fmt: skip


def _event(choices: list[object], **more: object) -> bytes:
    said = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


_PIECES = [_event([{"index": 0, "finish_reason": None, "delta": {"content": "word "}}])] * TOKENS
_LAST = _event([{"index": 0, "finish_reason": "stop", "delta": {}}])
_COUNTS = _event([], usage=_USAGE)


async def complete(request: web.Request) -> web.StreamResponse:
    """The fixed answer; a stream goes out piece by piece, as from a model."""
    asked = json.loads(await request.read())
    if not asked.get("stream"):
        return web.Response(body=_WHOLE, content_type="application/json")
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for piece in _PIECES:
        await answer.write(piece)
        await asyncio.sleep(0)
    wanted = (asked.get("stream_options") or {}).get("include_usage")
    await answer.write(_LAST + (_COUNTS if wanted else b"") + b"data: [DONE]\n\n")
    return answer


async def serve(socket: Path, port: int) -> None:
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", complete)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    if port:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--socket", type=Path, required=True)
    arguments.add_argument("--port", type=int, default=0)
    given = arguments.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.socket, given.port))


if __name__ == "__main__":
    main()
