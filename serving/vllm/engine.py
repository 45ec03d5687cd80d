"""`serving.engine.protocol.Engine` on vLLM: one model's directory, PEFT adapters, in processes of ours.

vLLM reads an adapter's files again whenever its own cache has dropped it, so it is given a copy that nobody
else writes to or removes, and that lies there until the last answer of the adapter is out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from serving.engine.answer_check import ExpectedAnswer
from serving.engine.client import over_socket
from serving.engine.naming import model_alias
from serving.engine.process_engine import CONTROL_SECONDS, EngineProcess
from serving.engine.protocol import Health
from serving.errors import AdapterRefused, EngineFailed, NotServable, Overloaded
from serving.process.process import Launch
from serving.vllm import adapter_files, adapter_probe
from serving.vllm.launch import VllmSettings, launch_with_adapters

STUCK_SECONDS = 120.0
"""Without a token while answers are under way."""
POLL_SECONDS = 0.25
"""Between two looks for vLLM's socket, which it makes and does not tell of."""
DIGEST = re.compile(r"[0-9a-f]{64}")
COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:request_success_total": "answers",
}


class VllmEngine(EngineProcess[VllmSettings]):
    """See `serving.engine.protocol.Engine`; `path` is the directory of a Hugging Face model."""

    def __init__(
        self,
        artifact_id: str,
        path: Path,
        settings: VllmSettings,
        log: Path,
        expected: Sequence[ExpectedAnswer] = (),
    ) -> None:
        super().__init__(artifact_id, path, settings, log, expected)
        self._key = secrets.token_hex(16)
        self._bytes: dict[str, str] = {}
        """Served name → digest of the files it stood for, ever."""
        self._leaving: set[str] = set()
        self._copies: dict[str, Path] = {}
        """Artifact digest → the files that vLLM reads."""
        self._serials = itertools.count(1)
        self._changing = asyncio.Lock()
        self._base_says: adapter_probe.Likeliest = {}
        self._seen: tuple[float, float] = (-1.0, 0.0)
        """Tokens at the last sign of progress, and when that was."""

    @property
    def socket(self) -> Path:
        return self._folder / str(self._life) / "api"

    async def load_adapter(self, digest: str, path: Path) -> str:
        """As `Engine` says; `path` has `adapter_config.json` and `adapter_model.safetensors`."""
        if not DIGEST.fullmatch(digest):
            raise AdapterRefused(f"{digest!r} is not an artifact's digest (64 hexadecimal digits)")
        name = model_alias(digest)
        async with self._changing:  # one load at a time: the second to ask finds it loaded
            if digest in self.loaded:
                return name
            if name in self._leaving or name in self.loaded.values() or name == self.base:
                why = "is being unloaded" if name in self._leaving else "serves another"
                raise AdapterRefused(f"the name {name} {why}; a name stands for one artifact only")
            if len(self.loaded) + len(self._leaving) >= self.slots:
                raise Overloaded(
                    f"{self.slots} adapters are loaded, the most that this engine was started for"
                )
            # each load has a path of its own: vLLM's cache of prefixes goes by name and path
            life, copy = self._life, self.socket.with_name(f"adapter-{next(self._serials)}")
            try:
                await self._bring(name, path, copy)
            except BaseException:
                await _remove(copy)
                raise
            if life == self._life:  # else this was an answer of an engine that is gone
                self.loaded[digest], self._copies[digest] = name, copy
        return name

    async def _bring(self, name: str, path: Path, copy: Path) -> None:
        sha256 = await asyncio.to_thread(adapter_files.copy, path, copy, self._settings.max_rank)
        if self._bytes.get(name, sha256) != sha256:
            raise AdapterRefused(
                f"{path} does not hold the bytes that {name} stood for before (sha256 {sha256[:12]}…, "
                f"expected {self._bytes[name][:12]}…); an adapter's name stands for one artifact only"
            )
        adapter = {"lora_name": name, "lora_path": str(copy)}
        answer = await self._control("POST", "/v1/load_lora_adapter", adapter)
        if answer.status_code != 200:
            await self.health()  # a dead engine is not the adapter's fault
            raise NotServable(f"{path}: vLLM does not load this adapter: {_message(answer)}")
        self._bytes[name] = sha256
        try:
            assert self._client is not None
            await adapter_probe.require_effect(self._client, self.base, name, self._base_says)
        except BaseException:
            await self._control("POST", "/v1/unload_lora_adapter", {"lora_name": name})
            raise

    async def unload_adapter(self, digest: str) -> None:
        name, life = self.loaded.pop(digest, None), self._life
        if name is None:
            return
        copy = self._copies.pop(digest)
        self._leaving.add(name)
        try:
            answer = await self._control("POST", "/v1/unload_lora_adapter", {"lora_name": name})
            if answer.status_code not in (200, 404):  # 404: an engine that was started again meanwhile
                raise EngineFailed(f"the engine did not unload {name}: {_message(answer)}")
        finally:
            if life == self._life:
                self._leaving.discard(name)
        await _remove(copy)

    async def health(self) -> Health:
        under_way = await self._control("GET", "/tuneline/under-way", timeout=CONTROL_SECONDS)
        alive = await self._control("GET", "/health", timeout=CONTROL_SECONDS)
        metrics = await self._control("GET", "/metrics", timeout=CONTROL_SECONDS)
        if alive.status_code != 200:
            raise EngineFailed(f"the engine reports that it is unhealthy: {_message(alive)}")
        active = int(under_way.json()["under_way"])
        counts = read_counters(metrics.text)
        tokens, now = counts["prompt_tokens"] + counts["generated_tokens"], time.monotonic()
        if not active or tokens != self._seen[0]:
            self._seen = tokens, now
        if now - self._seen[1] > STUCK_SECONDS:
            raise EngineFailed(f"{active} answers are under way, and no token came in {STUCK_SECONDS:g} s")
        return {"status": "ok", "base": self.base, "active": active, "adapters": len(self.loaded), **counts}

    @contextlib.contextmanager
    def _prepare(self) -> Iterator[Launch]:
        shutil.rmtree(self.socket.parent, ignore_errors=True)
        self._life += 1
        self.socket.parent.mkdir()
        yield launch_with_adapters(self._path, self.base, self.socket, self._key, self._settings)

    def _connect(self) -> httpx.AsyncClient:
        return over_socket(self.socket, {"x-tuneline-control": self._key})

    async def _greet(self) -> None:
        assert self._client is not None
        self._copies.clear()
        self._leaving.clear()
        self._seen = -1.0, 0.0
        while True:
            with contextlib.suppress(EngineFailed):
                if (await self._control("GET", "/health")).status_code == 200:
                    break
            await asyncio.sleep(POLL_SECONDS)
        models = (await self._control("GET", "/v1/models")).json()["data"]
        served = [model["id"] for model in models]
        if served != [self.base]:
            raise EngineFailed(f"the engine serves {served}, expected [{self.base!r}]")
        self._base_says = await adapter_probe.ask(self._client, self.base)


def read_counters(text: str) -> dict[str, int]:
    """Sums of vLLM's counters over all labels, from `/metrics`; 0 where one has not counted yet."""
    counts = dict.fromkeys(COUNTERS.values(), 0)
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in COUNTERS:
            counts[COUNTERS[name]] += int(float(line.rpartition(" ")[2]))
    return counts


async def _remove(folder: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _message(answer: httpx.Response) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(answer.json()["error"]["message"])
    return f"status {answer.status_code}: {answer.text[:300]}"
