"""`serving.engine.protocol.Engine` on llama.cpp: one base GGUF, GGUF adapters, in one process of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from serving import errors
from serving.engine.client import over_socket
from serving.engine.naming import model_alias
from serving.engine.process_engine import CONTROL_SECONDS, EngineProcess
from serving.engine.protocol import Health
from serving.engine.settings import EngineSettings
from serving.errors import EngineFailed
from serving.llama_cpp.launch import launch_with_adapters
from serving.openai_api.fields import JsonObject
from serving.process import process
from serving.process.process import Launch


class LlamaCppEngine(EngineProcess[EngineSettings]):
    """See `serving.engine.protocol.Engine`; `path` is the base's GGUF file or its artifact's directory."""

    @property
    def socket(self) -> Path:
        return self._folder / f"{self._life}.api"

    async def load_adapter(self, digest: str, path: Path) -> str:
        file = path / "model.gguf" if path.is_dir() else path
        life, name = self._life, model_alias(digest)
        body = {"name": name, "digest": digest, "path": str(file.resolve())}
        served: str = (await self._ask("POST", "/adapters", body))["name"]
        if life == self._life:  # else this was an answer of an engine that is gone
            self.loaded[digest] = served
        return served

    async def unload_adapter(self, digest: str) -> None:
        name = self.loaded.pop(digest, None)
        if name is not None:
            with contextlib.suppress(errors.UnknownModel):
                await self._ask("DELETE", f"/adapters/{name}")

    async def health(self) -> Health:
        return await self._ask("GET", "/health", timeout=CONTROL_SECONDS)

    @contextlib.contextmanager
    def _prepare(self) -> Iterator[Launch]:
        self.socket.unlink(missing_ok=True)
        self._life += 1
        with (
            process.listen_unix(self.socket) as data,
            process.listen_unix(self._folder / f"{self._life}.control") as control,
        ):
            yield launch_with_adapters(self._path, self.base, data, control, self._settings)

    def _connect(self) -> httpx.AsyncClient:
        return over_socket(self._folder / f"{self._life}.control")

    async def _greet(self) -> None:
        """Its sockets take connections from the first moment on, and answer once the model is loaded."""
        base = (await self._ask("GET", "/health")).get("base")
        if base != self.base:
            raise EngineFailed(f"the engine serves the base {base!r}, expected {self.base!r}")

    async def _ask(
        self, method: str, route: str, body: dict[str, str] | None = None, timeout: float | None = None
    ) -> JsonObject:
        answer = await self._control(method, route, body, timeout)
        try:
            document: JsonObject = answer.json()
        except ValueError as error:
            raise EngineFailed(f"the engine's answer to {method} {route} is not JSON: {error}") from None
        if answer.status_code == 200:
            return document
        kind = getattr(errors, str(document.get("kind")), EngineFailed)
        raise kind(document.get("error") or f"the engine answered {answer.status_code} to {method} {route}")
