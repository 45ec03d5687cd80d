"""The engine process: llama-cpp-python's OpenAI-compatible server for one GGUF file, made strict.

`python -m serving.llama_cpp_child --model FILE --alias NAME [--fd N | --host H --port P]`

What is changed of the stock server, and why:
- It answers any model name with the model it has; here an unknown name is a 404, so that nobody takes
  one model's answers for another's.
- It guesses a chat format, and falls back to Llama 2's; here the file's own template renders, or nothing.
- Its requests default to a repetition penalty of 1.1; here 1.0, as the model was trained and evaluated.
- A new request cuts off the stream of another; here it waits.
- It reads unprefixed environment variables (MODEL, API_KEY, SEED, CONFIG_FILE …); here none.
- It lets every web page call it (CORS *); here only programs.
- It has no health route, and its model list waits for the answer under way, so that a probe would end a
  busy engine; here `/health` answers at once.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from serving.llama_amx import avoid_amx

SHUTDOWN_SECONDS = 5
"""How long answers under way may take once the engine is told to end."""


class UnknownModel(HTTPException):
    """A request for a model that is not served here."""

    def __init__(self, asked: str, served: str) -> None:
        super().__init__(404, f"the model {asked!r} is not served here; this endpoint serves {served!r}")


def build_app(model: str, alias: str, context_length: int, threads: int | None) -> FastAPI:
    """Load the GGUF file and return the server's ASGI app.

    Raises `ValueError` when llama.cpp cannot load the file, or when it has no chat template.
    """
    forget_environment()
    no_penalty_by_default()
    avoid_amx()
    callback = log_warnings_only()
    from llama_cpp.server import app as stock
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    cores: dict[str, Any] = {} if threads is None else {"n_threads": threads, "n_threads_batch": threads}
    app: FastAPI = stock.create_app(
        server_settings=ServerSettings(interrupt_requests=False),
        model_settings=[
            ModelSettings(
                model=model, model_alias=alias, n_ctx=context_length, chat_format="chat_template.default",
                use_mlock=False, logits_all=False,  # a context of logits is gigabytes; only logprobs need it
                **cores,
            )
        ],
    )  # fmt: skip
    app.state.log_callback = callback
    if "tokenizer.chat_template" not in stock._llama_proxy(alias).metadata:
        raise ValueError("the file has no chat template; give one in the recipe: base.chat_template")
    app.user_middleware = [m for m in app.user_middleware if m.cls is not CORSMiddleware]
    app.dependency_overrides[stock.authenticate] = known_model_only(alias)
    app.add_exception_handler(UnknownModel, _openai_error)
    app.add_api_route("/health", _health)
    return app


def forget_environment() -> None:
    """Drop the variables that the stock server's settings would pick up by their bare names."""
    from llama_cpp.server.settings import Settings

    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name == "CONFIG_FILE":
            del os.environ[name]


def no_penalty_by_default() -> None:
    """Has to come before the first import of `llama_cpp.server.app`, which compiles the request types."""
    from llama_cpp.server import types

    for request in (types.CreateCompletionRequest, types.CreateChatCompletionRequest):
        request.model_fields["repeat_penalty"].default = 1.0
        request.model_rebuild(force=True)


def log_warnings_only() -> Any:
    """Returns the callback, which has to be kept: C holds it without a reference.

    llama-cpp-python's own choice is 2,000 lines for each load, or not a word on why it failed.

    Levels are ggml's: debug 1, info 2, warning 3, error 4, 5 goes on with the line before.
    """
    from llama_cpp import llama, llama_cpp

    shown = False

    @llama_cpp.llama_log_callback
    def write(level: int, text: bytes, _: Any) -> None:
        nonlocal shown
        shown = shown if level == 5 else level >= 3
        if shown:
            sys.stderr.write(text.decode(errors="replace"))
            sys.stderr.flush()

    llama_cpp.llama_log_set(write, None)
    llama.set_verbose = lambda verbose: None
    return write


def known_model_only(alias: str) -> Any:
    """A dependency in the place of the stock server's key check, which every route has."""

    async def check(request: Request) -> None:
        if request.method != "POST":
            return
        body = await request.json()
        asked = body.get("model") if isinstance(body, dict) else None
        if asked is not None and asked != alias:
            raise UnknownModel(str(asked), alias)

    return check


async def _health() -> dict[str, str]:
    return {"status": "ok"}


async def _openai_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnknownModel)
    body = {
        "message": error.detail,
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    return JSONResponse({"error": body}, status_code=error.status_code)


def command_line() -> argparse.ArgumentParser:
    """The options of `python -m serving.llama_cpp_child`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.llama_cpp_child", description="Serve one GGUF file."
    )
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--alias", required=True, help="the only model name that is answered")
    parser.add_argument("--fd", type=int, help="a listening socket to take over, instead of host and port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context-length", type=int, default=2048, help="tokens")
    parser.add_argument("--threads", type=int, help="default: llama.cpp's own")
    return parser


def main() -> None:
    import uvicorn

    args = command_line().parse_args()
    try:
        app = build_app(args.model, args.alias, args.context_length, args.threads)
    except ValueError as error:
        sys.exit(f"{args.model} cannot be served: {error}")
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=args.host, port=args.port, access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
        )
    )
    server.run(sockets=None if args.fd is None else [socket.socket(fileno=args.fd)])


if __name__ == "__main__":
    main()
