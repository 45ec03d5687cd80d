"""`tuneline chat CHANNEL`: talk to what a channel points to, through the gateway or its own endpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator

import httpx

from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.errors import Usage
from registry.artifacts import JsonObject
from serving.engine.naming import model_alias
from serving.errors import RequestFailed

KEY_VARIABLE = "TUNELINE_KEY"


def chat(arguments: argparse.Namespace) -> Reply:
    """Ask once with `--message`, or read questions from standard input until it ends.

    Raises Usage where nothing serves the channel, or for a refusal, with the server's reason; RequestFailed
    where there is no answer.
    """
    url, model, headers = _server(arguments)
    messages: list[dict[str, str]] = []
    if arguments.system:
        messages.append({"role": "system", "content": arguments.system})
    turns = []
    options = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    settings = {name: value for name, value in options.items() if value is not None}
    with httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(300, connect=5)) as client:
        for question in _questions(arguments):
            messages.append({"role": "user", "content": question})
            body = {"model": model, "messages": messages, "stream": True, **settings}
            pieces = []
            with _asked(client, body) as (artifact, texts):
                for text in texts:
                    pieces.append(text)
                    if not arguments.json:
                        print(text, end="", flush=True)
            if not arguments.json:
                print(flush=True)
            messages.append({"role": "assistant", "content": "".join(pieces)})
            turns.append({"question": question, "answer": "".join(pieces), "artifact": artifact})
    return Reply({"channel": arguments.channel, "turns": turns}, lambda: None)


def _server(arguments: argparse.Namespace) -> tuple[str, str, dict[str, str]]:
    """The base URL, the model's name there, and the headers to send."""
    if arguments.url:
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise Usage(f"--url asks a gateway, which needs a key: set {KEY_VARIABLE} to the tenant's key")
        url = arguments.url.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
        return url, arguments.channel, {"authorization": f"Bearer {key}"}
    with open_registry() as registry:
        rows = [row for row in registry.endpoints.ls(running_only=True) if row.channel == arguments.channel]
    living = [row for row in rows if row.process.is_alive()]
    if not living:
        raise Usage(
            f"nothing serves {arguments.channel} here (`tuneline endpoints ls` lists what runs); for a "
            f"gateway give its address with --url and the tenant's key in {KEY_VARIABLE}"
        )
    row = living[0]  # the newest
    # one that was deployed before endpoints had names knows only the artifact's
    return f"{row.url}/v1", row.config.get("name") or model_alias(row.artifact_id), {}


def _questions(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.message is not None:
        yield arguments.message
        return
    shown = sys.stdin.isatty() and not arguments.json
    while True:
        if shown:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


@contextlib.contextmanager
def _asked(client: httpx.Client, body: JsonObject) -> Iterator[tuple[str | None, Iterator[str]]]:
    try:
        with client.stream("POST", "/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                message = f"{client.base_url}: {answer.status_code} {_reason(answer)}"
                raise (RequestFailed if answer.status_code in (429, *range(500, 600)) else Usage)(message)
            yield answer.headers.get("x-tuneline-artifact"), _texts(answer)
    except httpx.HTTPError as error:
        raise RequestFailed(f"{client.base_url} gave no answer: {error}") from None


def _texts(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        data = line.removeprefix("data: ")
        if not line or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise RequestFailed(f"the answer ended early: {event['error']['message']}")
        for choice in event.get("choices", ()):
            yield choice["delta"].get("content") or ""


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]
