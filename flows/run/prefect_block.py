"""Tells people by a block of Prefect's: e-mail, Slack, Teams and whatever else Prefect sends to.

    python -m flows.run.prefect_block TYPE/NAME[?to=ADDRESS[&from=ADDRESS]] < {"subject": …, "text": …}

does it, and prints what went wrong; Prefect's log goes to the standard error. It is a process of its own
since Prefect takes seconds to import, and a mail server may not answer at all.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
import sys
from collections.abc import Awaitable
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs

from registry.access.delivery import CLAIMED_SECONDS

SECONDS = CLAIMED_SECONDS - 10.0
"""For one attempt, with the start of its process."""
LONGEST = 300


async def notify(block: str, body: str) -> str | None:
    """Tell the block `TYPE/NAME[?to=…]` of a delivery's body, which is JSON; what went wrong, if anything."""
    if not os.environ.get("PREFECT_API_URL"):
        return "PREFECT_API_URL names no Prefect server; blocks are kept there: set it for whoever delivers"
    command = [sys.executable, "-m", "flows.run.prefect_block", block]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        letter = json.dumps(letter_of(json.loads(body))).encode()
        output, logged = await asyncio.wait_for(process.communicate(letter), SECONDS)
    except TimeoutError:
        return f"block {block} has not told anybody within {SECONDS:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return None
    lines = (output or logged).decode("utf-8", "replace").strip().splitlines()
    return f"block {block}: {lines[-1][:LONGEST] if lines else f'it ended with {process.returncode}'}"


def letter_of(body: dict[str, Any]) -> dict[str, str]:
    """Subject and text of what a webhook is told as JSON."""
    about = body["about"]
    names = (about.get(key) for key in ("channel", "night", "run", "decision", "status"))
    what = next((str(name) for name in names if name), "")
    lines = [f"{body['event']}, {body['at'][:19].replace('T', ' ')} UTC", ""]
    lines += [line for key, value in about.items() for line in _lines(key, value)]
    return {"subject": f"Tuneline: {body['event']} {what}".rstrip(), "text": "\n".join(lines)}


def _lines(key: str, value: Any) -> list[str]:
    """`key: value`, and what has parts below it, a line for each."""
    if isinstance(value, dict):
        return [f"{key}: {', '.join(f'{name} {each}' for name, each in value.items()) or '–'}"]
    if isinstance(value, list):
        parts = [", ".join(map(str, row.values())) if isinstance(row, dict) else str(row) for row in value]
        return [f"{key}:", *(f"  {part}" for part in parts)] if parts else [f"{key}: –"]
    return [f"{key}: {'–' if value is None else value}"]


def main() -> int:
    """Raises nothing: what went wrong is one line, as it stands in the log of deliveries."""
    letter = json.load(sys.stdin)
    try:
        _send(sys.argv[1], letter["subject"], letter["text"])
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split()) or 'nobody was told'}")
        return 1
    return 0


def _send(address: str, subject: str, text: str) -> None:
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block
    from prefect_email import EmailServerCredentials

    name, _, query = address.partition("?")
    block = Block.load(name)
    if isinstance(block, EmailServerCredentials):
        with block.get_server() as server:
            server.send_message(_mail(block.username, parse_qs(query), subject, text))
    elif isinstance(block, NotificationBlock):
        with block.raise_on_failure():
            answer: Any = block.notify(text, subject)
            if inspect.isawaitable(answer):  # Prefect's own answer at once where no loop runs
                asyncio.run(_awaited(answer))
    else:
        raise TypeError(f"it is a {type(block).__name__}, and tells nobody anything")


def _mail(user: str | None, given: dict[str, list[str]], subject: str, text: str) -> EmailMessage:
    if "to" not in given:
        raise ValueError(
            "it sends e-mail, but to whom is not said: add `?to=ADDRESS` to the webhook's address"
        )
    message = EmailMessage()
    message["Subject"], message["To"] = subject, given["to"][0]
    message["From"] = given.get("from", [user or f"tuneline@{socket.gethostname()}"])[0]
    message.set_content(text)
    return message


async def _awaited(answer: Awaitable[None]) -> None:
    await answer


if __name__ == "__main__":
    sys.exit(main())
