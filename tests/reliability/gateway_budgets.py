"""100 requests at once on a nearly empty budget, through two gateways on one registry: is it ever overdrawn?

    python -m tests.reliability.gateway_budgets --rounds 20 [--requests 100] [--gateways 2]

In each round a new tenant has tokens for a few requests only; half of the requests are streamed. The budget
is watched meanwhile: what is used and reserved together must never pass the limit, and in the end what was
used must be what the engine said of the answers that were given. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.seconds import seconds
from tests.serving.gateway.live_gateway import CHECKOUT, LLAMA, Gateway, running, until
from tests.serving.populated_registry import kept_registry

ANSWERS = 5
"""How many requests a tenant's tokens are for, about."""


async def ask(
    http: httpx.AsyncClient, gateway: Gateway, name: str, key: str, stream: bool
) -> tuple[int, int]:
    """Status, and the tokens of the answer."""
    body: dict[str, Any] = {
        "model": f"team/{name}", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8,
        "temperature": 0, "stream": stream,
    }  # fmt: skip
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = await http.post(
        f"{gateway.url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    )
    if answer.status_code != 200:
        return answer.status_code, 0
    last = answer.text.strip().split("\n\n")[-2].removeprefix("data: ") if stream else answer.text
    return 200, int(json.loads(last)["usage"]["total_tokens"])


async def one_round(
    gateways: list[Gateway], name: str, key: str, requests: int, limit: int
) -> dict[str, int]:
    """All at once, spread over the gateways."""
    first, highest, done = gateways[0], [0], asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], sum(await asyncio.to_thread(first.spent, name)))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    async with httpx.AsyncClient(timeout=seconds(120), limits=httpx.Limits(max_connections=None)) as http:
        asked = (ask(http, gateways[i % len(gateways)], name, key, i % 4 < 2) for i in range(requests))
        answers = await asyncio.gather(*asked)
    await asyncio.to_thread(until, lambda: first.spent(name)[1] == 0, "nothing stays reserved")
    done.set()
    await watching
    statuses = Counter(status for status, _ in answers)
    delivered, used = sum(tokens for _, tokens in answers), first.spent(name)[0]
    return {
        "answered": statuses[200], "refused": statuses[429], "else": requests - statuses[200] - statuses[429],
        "delivered": delivered, "used": used, "highest": highest[0],
        "over": int(max(highest[0], used) > limit), "miscounted": int(delivered != used),
    }  # fmt: skip


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rounds; see the module."""
    populated = kept_registry(CHECKOUT, folder / "home", 3)
    with contextlib.ExitStack() as stack:
        sections = [LLAMA | {"adapters": 3, "queue": 1024}]
        gateways = [
            stack.enter_context(running(populated, folder, sections, f"gateway-{number}"))
            for number in range(given.gateways)
        ]
        first = gateways[0]
        first.tenant("rich", populated.adapters[0].gguf)
        key = first.keys["rich"]
        _, cost = asyncio.run(_alone(first, key))
        rounds = []
        for number in range(given.rounds):
            name, limit = f"poor-{number}", cost * ANSWERS + number
            key = first.tenant(name, populated.adapters[number % 3].gguf, tokens_per_day=limit)
            for other in gateways[1:]:
                until(lambda other=other, key=key: other.get("/models", key).status_code == 200, "it knows")  # type: ignore[misc]
            rounds.append(asyncio.run(one_round(gateways, name, key, given.requests, limit)))
    sums = {name: sum(one[name] for one in rounds) for name in rounds[0] if name != "highest"}
    return {
        "gateways": given.gateways,
        "rounds": given.rounds,
        "requests": given.requests * given.rounds,
        **sums,
    }


async def _alone(gateway: Gateway, key: str) -> tuple[int, int]:
    async with httpx.AsyncClient(timeout=seconds(120)) as http:
        return await ask(http, gateway, "rich", key, False)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 20), ("requests", 100), ("gateways", 2)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = run(given, Path(folder))
    print(json.dumps(said, indent=1))
    return 1 if said["over"] or said["miscounted"] or said["else"] else 0


if __name__ == "__main__":
    sys.exit(main())
