"""One way to every engine: start, ask, see whether it lives, stop."""

from __future__ import annotations

import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from registry.compat import contract
from registry.compat.model import Described, Use, pair
from serving.engine.capabilities import limits
from serving.engine.naming import model_alias
from serving.errors import EngineFailed, PortTaken, RequestFailed
from serving.llama_cpp import launch as llama_cpp
from serving.process import process
from serving.vllm import launch as vllm

LAUNCHERS = {"llama.cpp": llama_cpp.launch, "vllm": vllm.launch}
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL; answers under way get half of it."""
ATTEMPTS = 3
"""For an engine that binds by itself and may find its free port taken meanwhile."""

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Engines are on loopback; a proxy from the environment would not find them."""


class EngineConfig(Protocol):
    """What an engine needs to know; `stages.deploy.DeployConfig` has it."""

    @property
    def engine(self) -> Literal["llama.cpp", "vllm"]: ...
    @property
    def name(self) -> str | None: ...
    @property
    def dtype(self) -> Literal["auto", "bfloat16", "float32"]: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def ready_timeout(self) -> float: ...
    @property
    def ttl_minutes(self) -> float | None: ...


class Endpoint(BaseModel):
    """A running engine, and how to find it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["llama.cpp", "vllm"]
    url: str
    pid: int
    pid_started: float
    """Seconds since the epoch; with the pid it names the process."""
    log: Path
    alias: str
    """The model name that requests use: the configured one, else `model_alias`, which is known too."""
    artifact_id: str
    started: datetime


class Running(Protocol):
    """What names a process: an `Endpoint`, or the registry's record of one."""

    @property
    def pid(self) -> int: ...
    @property
    def pid_started(self) -> float: ...


class Reply(BaseModel):
    """An answer, with the tokens that the engine counted."""

    model_config = ConfigDict(frozen=True)

    text: str
    prompt_tokens: int
    completion_tokens: int


def start(
    artifact_id: str, path: Path, config: EngineConfig, log: Path, model: Described | None = None
) -> Endpoint:
    """Start an engine for the model at `path`, wait until it is ready, and leave it running.

    It outlives this process; should this process die before it is ready, it ends too. Its output goes to
    `log`, which has to stay where it is. Raises `EngineMissing`, `NotServable`, `PortTaken`, or
    `EngineFailed` with the end of the log; nothing runs then. With `model`, `Incompatible` where its
    manifest says that this engine cannot serve it, or not with this context, before anything is loaded.
    """
    if model is not None and model.base is not None:
        use = Use(limits(config.engine), config.context_length)
        what = f"{config.engine} cannot serve this {model.kind} model"
        contract.require(pair(model, None, use), what)
    for attempt in itertools.count(1):
        try:
            return _start(artifact_id, path.resolve(), config, log.resolve())
        except PortTaken:
            if config.port or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _start(artifact_id: str, path: Path, config: EngineConfig, log: Path) -> Endpoint:
    alias = model_alias(artifact_id)
    began = log.stat().st_size if log.exists() else 0
    with process.listen(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        launch = LAUNCHERS[config.engine](
            path, alias, listener, config.context_length, config.threads,
            name=config.name, artifact=artifact_id, dtype=config.dtype,
        )  # fmt: skip
        ttl = None if config.ttl_minutes is None else config.ttl_minutes * 60
        with process.started(launch, log, ttl, GRACE_SECONDS) as engine:
            listener.close()  # the engine has it; with ours open, requests to a dead engine would hang
            host = f"[{config.host}]" if ":" in config.host else config.host
            endpoint = Endpoint(
                engine=config.engine, url=f"http://{host}:{port}", log=log, alias=config.name or alias,
                pid=engine.pid, pid_started=engine.pid_started,
                artifact_id=artifact_id, started=datetime.now(UTC),
            )  # fmt: skip
            _wait_ready(endpoint, config.ready_timeout, began)
    return endpoint


def _wait_ready(endpoint: Endpoint, timeout: float, began: int) -> None:
    """Ask for the model list until it names the alias; `began`: bytes of the log that are older."""
    deadline, pause = time.monotonic() + timeout, 0.05
    while True:
        if not alive(endpoint):
            raise _obituary(endpoint, began)
        try:
            served = [model["id"] for model in _call(endpoint, "/v1/models", None, timeout=1)["data"]]
        except (RequestFailed, KeyError, TypeError):
            served = []
        if endpoint.alias in served:
            return
        if time.monotonic() > deadline:
            raise EngineFailed(
                f"{endpoint.engine} was not ready after {timeout:g} s and has been stopped; raise "
                f"ready_timeout if it was still loading. The end of its log, {endpoint.log}:\n"
                f"{process.tail(endpoint.log)}"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _obituary(endpoint: Endpoint, began: int) -> EngineFailed | PortTaken:
    words = process.last_words(process.Started(endpoint.pid, endpoint.pid_started), endpoint.log)
    with endpoint.log.open("rb") as log:
        log.seek(began)
        lost_port = b"address already in use" in log.read().lower()
    if lost_port:
        return PortTaken(
            f"{endpoint.url}: another process took the port while {endpoint.engine} was starting"
        )
    return EngineFailed(
        f"{endpoint.engine} ended before it was ready. The end of its log, {endpoint.log}:\n{words}"
    )


def alive(endpoint: Running) -> bool:
    """Whether the very process that was started still runs (not: whether it answers)."""
    return process.find(endpoint.pid, endpoint.pid_started) is not None


def stop(endpoint: Running) -> bool:
    """End the engine and all it started; returns False when it was gone already.

    Another process that has its pid by now is left alone. Raises `EngineStays` when it cannot be ended.
    """
    return process.stop(endpoint.pid, endpoint.pid_started, GRACE_SECONDS)


def chat(endpoint: Endpoint, messages: Sequence[Mapping[str, str]], max_tokens: int, timeout: float) -> str:
    """The engine's answer to a chat, as text; see `ask`."""
    return ask(endpoint, messages, max_tokens, timeout).text


def ask(endpoint: Endpoint, messages: Sequence[Mapping[str, str]], max_tokens: int, timeout: float) -> Reply:
    """Greedy decoding of at most `max_tokens` tokens through /v1/chat/completions, within `timeout` seconds.

    Raises `RequestFailed` for a refusal, a broken connection, or an answer of another shape.
    """
    body = {
        "model": endpoint.alias,
        "messages": [dict(m) for m in messages],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    said = _call(endpoint, "/v1/chat/completions", body, timeout)
    try:
        return Reply(
            text=said["choices"][0]["message"]["content"] or "",
            prompt_tokens=said["usage"]["prompt_tokens"],
            completion_tokens=said["usage"]["completion_tokens"],
        )
    except (KeyError, IndexError, TypeError, ValueError):
        raise RequestFailed(
            f"{endpoint.url}/v1/chat/completions answered in another shape than a chat completion's: "
            f"{json.dumps(said)[:300]}; see {endpoint.log}"
        ) from None


def _call(endpoint: Endpoint, route: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(endpoint.url + route, data, {"Content-Type": "application/json"})
    try:
        with _direct.open(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(500).decode(errors="replace")
        raise RequestFailed(
            f"{endpoint.url}{route} answered {error.code}: {said}; see {endpoint.log}"
        ) from None
    except (
        OSError,
        ValueError,
    ) as error:  # URLError, timeouts and resets are OSErrors; bad JSON a ValueError
        reason = getattr(error, "reason", error)
        raise RequestFailed(f"{endpoint.url}{route} gave no answer ({reason}); see {endpoint.log}") from None
