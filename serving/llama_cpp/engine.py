"""`serving.engine.protocol.Engine` on llama.cpp: one base GGUF, GGUF adapters, in one process of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving import errors
from serving.engine.answer_check import ExpectedAnswer
from serving.engine.naming import model_alias
from serving.engine.process_engine import CONTROL_SECONDS, EngineProcess
from serving.errors import EngineFailed
from serving.llama_cpp import launch as llama_cpp
from serving.process import process
from serving.process.process import Launch


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


class LlamaCppEngine(EngineProcess):
    """See `serving.engine.protocol.Engine`."""

    def __init__(
        self,
        artifact_id: str,
        path: Path,
        settings: Settings,
        log: Path,
        recorded: Sequence[ExpectedAnswer] = (),
    ) -> None:
        """`path`: the base's GGUF file or its artifact's directory; its served name follows from the id.

        `recorded`: of what it answered when it was evaluated, it has to say something again after each start.
        """
        super().__init__(artifact_id, path, settings.adapters, log, settings.ready_timeout, recorded)
        self._settings = settings

    @property
    def socket(self) -> Path:
        return self._folder / f"{self._life}.api"

    async def load_adapter(self, digest: str, path: Path) -> str:
        file = path / "model.gguf" if path.is_dir() else path
        life, name = self._life, model_alias(digest)
        body = {"name": name, "digest": digest, "path": str(file.resolve())}
        served: str = (await self._told("POST", "/adapters", body))["name"]
        if life == self._life:  # else this was an answer of an engine that is gone
            self.loaded[digest] = served
        return served

    async def unload_adapter(self, digest: str) -> None:
        name = self.loaded.pop(digest, None)
        if name is not None:
            with contextlib.suppress(errors.UnknownModel):
                await self._told("DELETE", f"/adapters/{name}")

    async def health(self) -> dict[str, Any]:
        return await self._told("GET", "/health", timeout=CONTROL_SECONDS)

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

    def _connect(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._folder / f"{self._life}.control"))
        return httpx.AsyncClient(transport=transport, base_url="http://engine")

    async def _greet(self) -> None:
        """Its sockets take connections from the first moment on, and answer once the model is loaded."""
        said = await self._told("GET", "/health")
        if said.get("base") != self.base:
            raise EngineFailed(f"the engine serves the base {said.get('base')!r}, expected {self.base!r}")

    async def _told(
        self, method: str, route: str, body: dict[str, str] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        answer = await self._control(method, route, body, timeout)
        try:
            said: dict[str, Any] = answer.json()
        except ValueError as error:
            raise EngineFailed(f"the engine's answer to {method} {route} is no JSON: {error}") from None
        if answer.status_code == 200:
            return said
        kind = getattr(errors, str(said.get("kind")), EngineFailed)
        raise kind(said.get("error") or f"the engine answered {answer.status_code} to {method} {route}")
