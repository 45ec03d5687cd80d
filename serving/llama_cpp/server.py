"""The engine process: one GGUF model, GGUF adapters beside it, OpenAI's protocol in front of it.

`python -m serving.llama_cpp.server --model FILE --alias NAME [--fd N | --host H --port P] [--control-fd N]`

llama-cpp-python's own server is not used: it takes one adapter at start only, answers any model name with
the model it has, cuts one answer off when the next request comes, and penalizes repetition unasked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from serving.errors import ServingError
from serving.llama_cpp.admin_api import Control
from serving.llama_cpp.api import Requests
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher

SHUTDOWN_SECONDS = 5
"""How long answers under way may take once the engine is told to end."""


def command_line() -> argparse.ArgumentParser:
    """The options of `python -m serving.llama_cpp.server`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.llama_cpp.server", description="Serve one GGUF model and its adapters."
    )
    parser.add_argument("--model", required=True, type=Path, help="the GGUF file")
    parser.add_argument("--alias", required=True, help="the name under which the model alone is served")
    parser.add_argument("--name", help="one more name for it, which GET /v1/models lists first")
    parser.add_argument("--artifact", help="its artifact's id, given with each answer")
    parser.add_argument("--fd", type=int, help="a listening socket to take over, instead of host and port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--control-fd", type=int, help="a listening Unix socket; without it, no adapters")
    parser.add_argument("--context-length", type=int, default=2048, help="tokens of one answer's context")
    parser.add_argument("--threads", type=int, help="default: llama.cpp's own")
    parser.add_argument("--parallel", type=int, default=1, help="answers decoded at once")
    parser.add_argument("--queue", type=int, default=64, help="answers that may wait")
    parser.add_argument("--adapters", type=int, default=16, help="adapters that may be loaded at once")
    return parser


class _Server(uvicorn.Server):
    """One of two in a loop: signals are not its own to take."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _server(app: Starlette, args: argparse.Namespace) -> _Server:
    config = uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        access_log=False,
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return _Server(config)


async def serve(batcher: Batcher, requests: Requests, args: argparse.Namespace) -> None:
    """Serve until a signal comes or the engine's thread ends; then finish what is under way."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    batcher.when_stopped = partial(loop.call_soon_threadsafe, ended.set)
    data = _server(requests.app(), args)
    running = [asyncio.create_task(data.serve(_taken(args.fd)))]
    servers = [data]
    if args.control_fd is not None:
        servers.append(_server(Control(batcher).app(), args))
        running.append(asyncio.create_task(servers[-1].serve(_taken(args.control_fd))))
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait([waiting, *running], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)
    batcher.when_stopped = lambda: None  # this loop ends here


def _taken(fd: int | None) -> list[socket.socket] | None:
    return None if fd is None else [socket.socket(fileno=fd)]


def main() -> None:
    args = command_line().parse_args()
    try:
        model = LlamaModel(args.model, args.context_length, args.parallel, args.threads)
        batcher = Batcher(model, args.alias, args.parallel, args.queue, args.adapters)
        requests = Requests(batcher, args.name, args.artifact)
    except ServingError as error:
        sys.exit(f"{args.model} cannot be served: {error}")
    asyncio.run(serve(batcher, requests, args))
    failed = not batcher.alive
    if failed:
        sys.exit("llama.cpp's thread has ended; see above")
    batcher.stop()


if __name__ == "__main__":
    main()
