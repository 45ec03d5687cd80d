"""What both kinds of `serving.engine.protocol.Engine` have in common: a process that is kept alive."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import httpx

from serving.engine import answer_check
from serving.engine.answer_check import ExpectedAnswer
from serving.engine.naming import model_alias
from serving.engine.protocol import Health
from serving.engine.settings import EngineSettings
from serving.errors import EngineFailed
from serving.process.process import Launch
from serving.process.runtime_dir import RuntimeDir
from serving.process.supervisor import Supervisor

CONTROL_SECONDS = 30.0
"""For health; loads and unloads may take as long as the answers before them."""


Settings = TypeVar("Settings", bound=EngineSettings)


class EngineProcess(ABC, Generic[Settings]):
    """See `serving.engine.protocol.Engine`. An async context manager; or call `start` and `stop`."""

    def __init__(
        self,
        artifact_id: str,
        path: Path,
        settings: Settings,
        log: Path,
        expected: Sequence[ExpectedAnswer] = (),
    ) -> None:
        """`path`: the base's files; its served name follows from the id.

        `expected`: of what it answered when it was evaluated, it has to say something again after each start.
        """
        self.base = model_alias(artifact_id)
        self.slots = settings.adapters
        self.loaded: dict[str, str] = {}
        self._path, self._settings, self._expected = path.resolve(), settings, expected
        self._runtime_dir = RuntimeDir()
        self._folder = self._runtime_dir.path
        self._life = 0
        self._client: httpx.AsyncClient | None = None
        self._supervisor = Supervisor(
            self._prepare, self._ready, self.health, log.resolve(), settings.ready_timeout
        )

    @property
    @abstractmethod
    def socket(self) -> Path:
        """As `Engine` says."""

    @abstractmethod
    def _prepare(self) -> contextlib.AbstractContextManager[Launch]:
        """How to start the next life, with `_life` counted up."""

    @abstractmethod
    async def _greet(self) -> None:
        """Return once the new process answers for `base`. Raises `EngineFailed`."""

    @abstractmethod
    def _connect(self) -> httpx.AsyncClient:
        """A client for its control."""

    @abstractmethod
    async def health(self) -> Health:
        """As `Engine` says."""

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
        self._runtime_dir.remove()

    async def _ready(self) -> None:
        await self._hang_up()
        self.loaded.clear()
        self._client = self._connect()
        await self._greet()
        await answer_check.require_recorded(self.socket, self.base, self._expected)

    async def _hang_up(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _control(
        self, method: str, route: str, body: dict[str, str] | None = None, timeout: float | None = None
    ) -> httpx.Response:
        if self._client is None:
            raise EngineFailed("the engine is not running")
        try:
            return await self._client.request(method, route, json=body, timeout=timeout)
        except (httpx.HTTPError, RuntimeError) as error:
            raise EngineFailed(f"the engine did not answer {method} {route}: {error!r}") from None
