"""What the gateway adds to an engine, beside LiteLLM's proxy: `python -m tests.bench.gateway [--seconds 8]`.

Gateway and proxy have one core to themselves; the engine, which answers at once, and the clients have the
other. LiteLLM is installed into an environment of its own under `.cache/` and runs without a database and
without logs. Tuneline checks keys, counts rates, concurrency and tokens against limits, and writes outcomes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import uvloop

from registry import Registry
from registry.tenancy.tenants import TenantLimits
from tests.bench.results import Report
from tests.serving.populated_registry import WAIVER, kept_registry

CHECKOUT = Path(__file__).resolve().parents[2]
LITELLM = "litellm[proxy]==1.106.2"
MODEL = "team/bench"
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 16,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    arguments.add_argument("--without-litellm", action="store_true")
    given = arguments.parse_args()
    with Report("gateway", "aiohttp", "uvloop", "httpx") as report, contextlib.ExitStack() as stack:
        os.sched_setaffinity(0, {1})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = _start(stack, folder, not given.without_litellm)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for stream, title in ((False, "Whole answers"), (True, "Streamed answers")):
                medians: dict[tuple[str, int], float] = {}
                for name, (url, key) in targets.items():
                    for row in runner.run(_measure(url, key, stream, given.seconds)):
                        clients = int(row["clients"])
                        medians[name, clients] = row["p50 (ms)"]
                        slower = "Tuneline" in name and row["p50 (ms)"] > medians.get(
                            ("LiteLLM", clients), float("inf")
                        )
                        report.row(title, {"target": name, **row}, behind=slower)
                if not given.without_litellm:
                    report.note(title, f"`{LITELLM}` with one worker.")
                report.plot(title, "clients", "p50 (ms)", "target")


def _start(stack: contextlib.ExitStack, folder: Path, litellm: bool) -> dict[str, tuple[str, str]]:
    """Name → (URL, key) of what is measured."""
    populated = kept_registry(CHECKOUT, folder / "home", 3)
    keys = {}
    with Registry.open(populated.home) as registry:
        registry.channels.move(MODEL, populated.adapters[0].gguf, 0, waiver=WAIVER)
        limits = TenantLimits(requests_per_minute=10**9, concurrency=10**6, tokens_per_day=10**12)
        for name, limit in (("limited", limits), ("bare", None)):
            keys[name] = registry.tenants.add(name, MODEL, "bench", limit)[2]
    engine_port, port, other = _free(), _free(), _free()
    engine = folder / "engine"
    stack.enter_context(_process(
        1, "-m", "tests.bench.instant_engine", "--socket", str(engine), "--port", str(engine_port)
    ))  # fmt: skip
    stack.enter_context(
        _process(0, "-m", "tests.bench.gateway_process", str(populated.home), str(engine), str(port))
    )
    targets = {"engine alone": (f"http://127.0.0.1:{engine_port}", "")}
    if litellm:
        stack.enter_context(_litellm(folder, engine_port, other))
        targets["LiteLLM"] = (f"http://127.0.0.1:{other}", "sk-bench")
    return targets | {
        "Tuneline": (f"http://127.0.0.1:{port}", keys["limited"]),
        "Tuneline, no limits": (f"http://127.0.0.1:{port}", keys["bare"]),
    }


@contextlib.contextmanager
def _process(
    core: int, *argv: str, python: str = sys.executable, ready: bool = True, **env: str
) -> Iterator[None]:
    with subprocess.Popen(
        [python, *argv], cwd=CHECKOUT, stdout=subprocess.PIPE, env={**os.environ, **env},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}), stderr=None if ready else subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            if ready and not process.stdout.readline():
                raise SystemExit(f"{argv} did not start")
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _litellm(folder: Path, engine: int, port: int) -> Iterator[None]:
    place = CHECKOUT / ".cache" / "litellm"
    if not (place / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [
            str(place / "bin" / "pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            LITELLM,
            "uvloop",
        ]
        subprocess.run(pip, check=True)
    config = {
        "model_list": [{
            "model_name": MODEL,
            "litellm_params": {
                "model": "openai/instant", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none",
            },
        }],
        "litellm_settings": {"num_retries": 0, "set_verbose": False, "request_timeout": 60},
        "general_settings": {"master_key": "sk-bench", "disable_spend_logs": True},
    }  # fmt: skip
    (folder / "litellm.yaml").write_text(json.dumps(config))
    with _process(
        0, str(place / "bin" / "litellm"), "--config", str(folder / "litellm.yaml"), "--port", str(port),
        "--host", "127.0.0.1", "--num_workers", "1", python=str(place / "bin" / "python"), ready=False,
        LITELLM_LOG="ERROR", LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION",
    ):  # fmt: skip
        _await(port)
        yield


def _await(port: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.5)
    raise SystemExit("LiteLLM's proxy did not start within 180 s")


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def _measure(url: str, key: str, stream: bool, seconds: float) -> list[dict[str, float]]:
    rows = []
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as http:
        await _load(http, stream, 1, 1.0)
        for clients in (1, 8, 32):
            took = await _load(http, stream, clients, seconds)
            cuts = statistics.quantiles(took, n=100)
            rows.append(
                {
                    "clients": clients,
                    "p50 (ms)": statistics.median(took) * 1e3,
                    "p99 (ms)": cuts[98] * 1e3,
                    "requests/s": len(took) / seconds,
                }
            )
    return rows


async def _load(http: aiohttp.ClientSession, stream: bool, clients: int, seconds: float) -> list[float]:
    """Seconds of each request; every client asks again as soon as it has its answer."""
    took: list[float] = []
    end = time.monotonic() + seconds
    body = json.dumps(BODY | {"stream": stream}).encode()

    async def client() -> None:
        while (began := time.monotonic()) < end:
            async with http.post(
                "/v1/chat/completions", data=body, headers={"content-type": "application/json"}
            ) as answer:
                said = await answer.read()
            if answer.status != 200 or (b"word word" not in said and said.count(b"word ") < 16):
                raise SystemExit(f"{answer.status} {said[:300]!r}")
            took.append(time.monotonic() - began)

    await asyncio.gather(*(client() for _ in range(clients)))
    return took


if __name__ == "__main__":
    main()
