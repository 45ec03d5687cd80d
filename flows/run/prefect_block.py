"""Tells people by a Prefect notification block: e-mail, Slack, Teams and whatever else Prefect sends to.

    python -m flows.run.prefect_block TYPE/NAME < {"subject": …, "text": …}

does it, and says on its standard error what went wrong. It is a process of its own since Prefect takes
seconds to import, and a mail server may not answer at all.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Awaitable
from typing import Any

from registry.access.delivery import CLAIMED_SECONDS

SECONDS = CLAIMED_SECONDS - 10.0
"""For one attempt, with the start of its process."""
LONGEST = 300


async def notify(block: str, body: str) -> str | None:
    """Tell the block `TYPE/NAME` of a delivery's body, which is JSON; what went wrong, if anything did."""
    if not os.environ.get("PREFECT_API_URL"):
        return "PREFECT_API_URL names no Prefect server; blocks are kept there: set it for whoever delivers"
    command = [sys.executable, "-m", "flows.run.prefect_block", block]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe
    )
    try:
        letter = json.dumps(letter_of(json.loads(body))).encode()
        _, said = await asyncio.wait_for(process.communicate(letter), SECONDS)
    except TimeoutError:
        return f"block {block} has not told anybody within {SECONDS:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return None
    lines = said.decode("utf-8", "replace").strip().splitlines() or [f"it ended with {process.returncode}"]
    return f"block {block}: {lines[-1][:LONGEST]}"


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
        parts = [", ".join(map(str, one.values())) if isinstance(one, dict) else str(one) for one in value]
        return [f"{key}:", *(f"  {part}" for part in parts)] if parts else [f"{key}: –"]
    return [f"{key}: {'–' if value is None else value}"]


async def _awaited(answer: Awaitable[None]) -> None:
    await answer


def main() -> int:
    """Raises nothing: what went wrong is one line, as it stands in the log of deliveries."""
    letter = json.load(sys.stdin)
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    try:
        block = Block.load(sys.argv[1])
        if not isinstance(block, NotificationBlock):
            print(f"is a {type(block).__name__}, and tells nobody anything", file=sys.stderr)
            return 1
        with block.raise_on_failure():
            answer: Any = block.notify(letter["text"], letter["subject"])
            if inspect.isawaitable(answer):  # Prefect's own answer at once where no loop runs
                asyncio.run(_awaited(answer))
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).strip() or 'nobody was told'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
