"""Tells Prefect about one run: `python -m flows.run.prefect_reporter`, started by the run as its companion.

What happens comes as JSON lines on standard input (see `flows.run.prefect_view`). When that ends without the
run's own end, the run was killed, and is shown as crashed. Without a server in the settings, Prefect's
application is called in this process, on the database in PREFECT_HOME: nothing listens on a port.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from registry.artifacts import JsonObject

# The blocks that Prefect ships are of no use here, and registering them takes longer than all the rest.
os.environ.setdefault("PREFECT_SERVER_REGISTER_BLOCKS_ON_START", "false")

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import State

from registry import processes

log = logging.getLogger("tuneline.prefect")

FLOW = "lifecycle"
KILLED = {
    "type": "CRASHED",
    "name": "Crashed",
    "message": "the process of this run ended without reporting, as after kill -9; the same command again "
    "goes "
    "on from what is in the registry",
}


@dataclass
class _Named:
    """What Prefect's client asks of a flow or a task that it only has to name."""

    name: str
    task_key: str = ""
    version: str | None = None
    retries: int = 0
    retry_delay_seconds: float = 0
    retry_jitter_factor: float | None = None
    tags: set[str] = field(default_factory=set)


class Reporter:
    """One run as a flow run, its stages as task runs."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._run: UUID | None = None
        self._in_parent: UUID | None = None
        self._stages = 0
        self._stage: UUID | None = None
        self._label = ""
        self._progress: UUID | None = None
        self.ended = False

    async def hear(self, event: str, values: JsonObject) -> None:
        """Pass one event on; nothing more of a run whose beginning did not get through."""
        self.ended = event == "end"
        if event == "run" or self._run is not None:
            await getattr(self, f"_on_{event}")(**values)

    async def killed(self) -> None:
        """The run is gone without having said how it ended."""
        if self._stage is not None:
            await self._on_ended(KILLED, whole=False)
        await self._finish(KILLED)

    async def _on_run(self, name: str, parameters: JsonObject, parent: str | None) -> None:
        if parent is not None:
            # Prefect's own way to show a run within another: a task run there that stands for it.
            task = cast(Any, _Named(name, task_key=FLOW))
            placed = await self._client.create_task_run(
                task, UUID(parent), dynamic_key=parameters["run"], name=name, state=_running()
            )
            self._in_parent = placed.id
        flow = cast(Any, _Named(FLOW))
        run = await self._client.create_flow_run(
            flow, name=name, parameters=parameters, parent_task_run_id=self._in_parent, state=_running()
        )
        self._run = run.id

    async def _on_stage(self, stage: str, label: str) -> None:
        self._stages += 1
        task = cast(Any, _Named(stage, task_key=stage))
        run = await self._client.create_task_run(
            task, self._run, dynamic_key=str(self._stages), name=label, state=_running()
        )
        self._stage, self._label = run.id, label

    async def _on_progress(self, percent: float) -> None:
        if self._progress is not None:
            await self._change(self._progress, data=percent)
        else:
            self._progress = await self._publish(
                type="progress", description=self._label, data=percent, task_run_id=self._stage
            )

    async def _on_ended(self, state: dict[str, str], whole: bool) -> None:
        stage, progress, self._stage, self._progress = self._stage, self._progress, None, None
        if progress is not None and whole:
            await self._change(progress, data=100.0)
        elif progress is not None:
            words = f"{self._label}: {state['name'].lower()} at this point"
            await self._change(progress, description=words)
        if stage is not None:
            await self._client.set_task_run_state(stage, _state(state), force=True)

    async def _on_end(self, state: dict[str, str], markdown: str) -> None:
        try:
            await self._publish(key="report", type="markdown", data=markdown)
        finally:
            await self._finish(state)

    async def _publish(self, **artifact: Any) -> UUID:
        # Not by the client's own method, which also tells of it as an event, through a server of its own.
        whole = ArtifactCreate(flow_run_id=self._run, **artifact).model_dump(mode="json", exclude_unset=True)
        answer = await self._client.request("POST", "/artifacts/", json=whole)
        return UUID(answer.json()["id"])

    async def _change(self, artifact: UUID, **values: Any) -> None:
        changed = ArtifactUpdate(**values).model_dump(mode="json", exclude_unset=True)
        await self._client.request("PATCH", "/artifacts/{id}", path_params={"id": artifact}, json=changed)

    async def _finish(self, state: dict[str, str]) -> None:
        if self._run is not None:
            await self._client.set_flow_run_state(self._run, _state(state), force=True)
        if self._in_parent is not None:
            await self._client.set_task_run_state(self._in_parent, _state(state), force=True)


async def end_the_dead(client: PrefectClient) -> None:
    """Mark as crashed what is shown as running although its process, of this machine, is gone."""
    running = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
        flow_run_filter=FlowRunFilter.model_validate(running),
    )
    for run in runs:
        named = run.parameters
        if named.get("host") != processes.host_id():
            continue
        if processes.ProcessId(named["pid"], named["pid_started"]).is_alive():
            continue
        for task in await client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
            task_run_filter=TaskRunFilter.model_validate(running),
        ):
            await client.set_task_run_state(task.id, _state(KILLED), force=True)
        await client.set_flow_run_state(run.id, _state(KILLED), force=True)


def _running() -> State[Any]:
    return _state({"type": "RUNNING", "name": "Running"})


def _state(values: dict[str, str]) -> State[Any]:
    return State[Any].model_validate(values)


@contextlib.asynccontextmanager
async def _connected() -> AsyncIterator[PrefectClient]:
    if PREFECT_API_URL.value():
        async with get_client() as client:
            yield client
        return
    gc.disable()  # imports make no garbage, and looking for some takes a fifth of their time
    from prefect.server.api.server import create_app

    gc.freeze()
    gc.enable()
    app = create_app(ephemeral=True, final=True)
    client = PrefectClient(app)
    client.manage_lifespan = False  # it would give up after 30 s, which a busy machine exceeds
    async with contextlib.AsyncExitStack() as stack:
        # Two runs that start in a new home at once would both make the tables.
        with (Path(PREFECT_HOME.value()) / "tuneline.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await stack.enter_async_context(app.router.lifespan_context(app))
        yield await stack.enter_async_context(client)


def _listen(loop: asyncio.AbstractEventLoop, heard: asyncio.Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(heard.put_nowait, line)
    loop.call_soon_threadsafe(heard.put_nowait, b"")


async def main() -> int:
    """Pass on what standard input says until it ends; 1 where something did not get through."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listener = (asyncio.get_running_loop(), heard)
    threading.Thread(target=_listen, args=listener, daemon=True).start()
    async with _connected() as client:
        reporter, failed = Reporter(client), await _failed(end_the_dead(client))
        while line := await heard.get():
            values = json.loads(line)
            failed |= await _failed(reporter.hear(values.pop("event"), values))
        if not reporter.ended:
            failed |= await _failed(reporter.killed())
    return int(failed)


async def _failed(telling: Coroutine[Any, Any, None]) -> bool:
    """Whether it failed; the log has why, and the next telling may get through."""
    try:
        await telling
    except Exception:
        log.exception("Prefect was not told")
        return True
    return False


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.exit(asyncio.run(main()))
