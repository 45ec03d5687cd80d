"""`serving.resident.Engine` on llama.cpp: one base GGUF, GGUF adapters, in one process of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from serving import errors, llama_cpp, process
from serving.engine import model_alias
from serving.errors import EngineFailed
from serving.process import Launch
from serving.scratch import Scratch
from serving.supervise import Supervisor

CONTROL_SECONDS = 30.0
"""For health; loads and unloads may take as long as the answers before them."""


@dataclass(frozen=True)
class Settings:
    """How much one engine holds and does at once."""

    context_length: int = 2048
    """Tokens of one answer's context."""
    parallel: int = 4
    """Answers decoded at once; each has a context's memory."""
    queue: int = 64
    """Answers that may wait."""
    adapters: int = 16
    threads: int | None = None
    """CPU threads; None: all cores."""
    ready_timeout: float = 120.0
    """Seconds."""


class LlamaCppEngine:
    """See `serving.resident.Engine`. Use it as an async context manager, or call `start` and `stop`."""

    def __init__(self, artifact_id: str, path: Path, settings: Settings, log: Path) -> None:
        """`path`: the base's GGUF file or its artifact's directory; its served name follows from the id."""
        self.base = model_alias(artifact_id)
        self.slots = settings.adapters
        self.loaded: dict[str, str] = {}
        self._path, self._settings = path.resolve(), settings
        self._scratch = Scratch()
        self._folder = self._scratch.path
        self._life = 0
        self._client: httpx.AsyncClient | None = None
        self._supervisor = Supervisor(
            self._prepare, self._ready, self.health, log.resolve(), settings.ready_timeout
        )

    @property
    def socket(self) -> Path:
        return self._folder / f"{self._life}.api"

    @property
    def pid(self) -> int | None:
        """Of the engine that runs now; None between two."""
        running = self._supervisor.running
        return running.pid if running else None

    @property
    def up(self) -> bool:
        return self._supervisor.running is not None

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""
        return self._supervisor.restarts

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        try:
            await self._supervisor.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._supervisor.stop()
        await self._hang_up()
        self._scratch.remove()

    async def load_adapter(self, digest: str, path: Path) -> str:
        file = path / "model.gguf" if path.is_dir() else path
        life, name = self._life, model_alias(digest)
        body = {"name": name, "digest": digest, "path": str(file.resolve())}
        served: str = (await self._control("POST", "/adapters", body))["name"]
        if life == self._life:  # else this was an answer of an engine that is gone
            self.loaded[digest] = served
        return served

    async def unload_adapter(self, digest: str) -> None:
        name = self.loaded.pop(digest, None)
        if name is not None:
            with contextlib.suppress(errors.UnknownModel):
                await self._control("DELETE", f"/adapters/{name}")

    async def health(self) -> dict[str, Any]:
        return await self._control("GET", "/health", timeout=CONTROL_SECONDS)

    @contextlib.contextmanager
    def _prepare(self) -> Iterator[Launch]:
        self.socket.unlink(missing_ok=True)
        self._life += 1
        with (
            process.listen_unix(self.socket) as data,
            process.listen_unix(self._folder / f"{self._life}.control") as control,
        ):
            one = self._settings
            yield llama_cpp.launch_resident(
                self._path, self.base, data, control, context_length=one.context_length, threads=one.threads,
                parallel=one.parallel, queue=one.queue, adapters=one.adapters,
            )  # fmt: skip

    async def _ready(self) -> None:
        """Its sockets take connections from the first moment on, and answer once the model is loaded."""
        await self._hang_up()
        self.loaded.clear()
        transport = httpx.AsyncHTTPTransport(uds=str(self._folder / f"{self._life}.control"))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://engine")
        said = await self._control("GET", "/health", timeout=None)
        if said.get("base") != self.base:
            raise EngineFailed(f"the engine serves the base {said.get('base')!r}, expected {self.base!r}")

    async def _hang_up(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _control(
        self, method: str, route: str, body: dict[str, str] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        if self._client is None:
            raise EngineFailed("the engine is not running")
        try:
            answer = await self._client.request(method, route, json=body, timeout=timeout)
            said: dict[str, Any] = answer.json()
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            raise EngineFailed(f"the engine gave no answer to {method} {route}: {error!r}") from None
        if answer.status_code == 200:
            return said
        kind = getattr(errors, str(said.get("kind")), EngineFailed)
        raise kind(said.get("error") or f"the engine answered {answer.status_code} to {method} {route}")
