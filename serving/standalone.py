"""One way to every engine: start, ask, see whether it lives, stop."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from registry.compat import contract
from registry.compat.model import Described, Use, pair
from registry.processes import ProcessId
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


class EngineConfig(Protocol):
    """What an engine needs to know; `stages.deploy.DeployConfig` has it."""

    @property
    def engine(self) -> Literal["llama.cpp", "vllm"]: ...
    @property
    def name(self) -> str | None: ...
    @property
    def dtype(self) -> Literal["auto", "bfloat16", "float32"]: ...
    @property
    def tool_call_parser(self) -> str | None: ...
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


@dataclass(frozen=True)
class RunningEngine:
    """A running engine, and how to find it again."""

    engine: Literal["llama.cpp", "vllm"]
    url: str
    process: ProcessId
    log: Path
    alias: str
    """The model name that requests use: the configured one, else `model_alias`, which is known too."""
    artifact_id: str


class HasProcess(Protocol):
    """A `RunningEngine`, or the registry's record of one."""

    @property
    def process(self) -> ProcessId: ...


@dataclass(frozen=True)
class ChatReply:
    """An answer, with the tokens that the engine counted."""

    text: str
    prompt_tokens: int
    completion_tokens: int


def start(
    artifact_id: str, path: Path, config: EngineConfig, log: Path, model: Described | None = None
) -> RunningEngine:
    """Start an engine for the model at `path`, wait until it is ready, and leave it running.

    It outlives this process; should this process die before it is ready, it ends too. Its output goes to
    `log`, which has to stay where it is. Raises `EngineMissing`, `NotServable`, `PortTaken`, or
    `EngineFailed` with the end of the log; nothing runs then. With `model`, `Incompatible` where its
    manifest says that this engine cannot serve it, or not with this context, before anything is loaded.
    """
    if model is not None and model.base is not None:
        use = Use(limits(config.engine), config.context_length)
        contract.require(pair(model, None, use), f"{config.engine} cannot serve this {model.kind} model")
    for attempt in itertools.count(1):
        try:
            return _start(artifact_id, path.resolve(), config, log.resolve())
        except PortTaken:
            if config.port or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _start(artifact_id: str, path: Path, config: EngineConfig, log: Path) -> RunningEngine:
    with _started(artifact_id, path, config, log, keep=True) as endpoint:
        return endpoint


@contextlib.contextmanager
def while_used(artifact_id: str, path: Path, config: EngineConfig, log: Path) -> Iterator[RunningEngine]:
    """An engine as of `start` that ends with the block, or with this process. Raises as `start` does."""
    with _started(artifact_id, path.resolve(), config, log.resolve(), keep=False) as endpoint:
        yield endpoint


@contextlib.contextmanager
def _started(
    artifact_id: str, path: Path, config: EngineConfig, log: Path, keep: bool
) -> Iterator[RunningEngine]:
    alias = model_alias(artifact_id)
    began = log.stat().st_size if log.exists() else 0
    with process.listen(config.host, config.port) as listener:
        host = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{host}:{listener.getsockname()[1]}"
        launch = LAUNCHERS[config.engine](
            path,
            alias,
            listener,
            config.context_length,
            config.threads,
            name=config.name,
            artifact=artifact_id,
            dtype=config.dtype,
            tool_call_parser=config.tool_call_parser,
        )
        ttl = None if config.ttl_minutes is None else config.ttl_minutes * 60
        with process.running(launch, log, ttl, GRACE_SECONDS, keep) as engine:
            listener.close()  # the engine has it; with ours open, requests to a dead engine would hang
            endpoint = RunningEngine(config.engine, url, engine, log, config.name or alias, artifact_id)
            _wait_ready(endpoint, config.ready_timeout, began)
            yield endpoint


def _wait_ready(endpoint: RunningEngine, timeout: float, began: int) -> None:
    """Ask for the model list until it names the alias; `began`: bytes of the log that are older."""
    deadline, pause = time.monotonic() + timeout, 0.05
    while True:
        if not endpoint.process.is_alive():
            raise _why_it_ended(endpoint, began)
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


def _why_it_ended(endpoint: RunningEngine, began: int) -> EngineFailed | PortTaken:
    end = process.last_words(endpoint.process, endpoint.log)
    with endpoint.log.open("rb") as log:
        log.seek(began)
        lost_port = b"address already in use" in log.read().lower()
    if lost_port:
        return PortTaken(
            f"{endpoint.url}: another process took the port while {endpoint.engine} was starting"
        )
    return EngineFailed(
        f"{endpoint.engine} ended before it was ready. The end of its log, {endpoint.log}:\n{end}"
    )


def stop(endpoint: HasProcess) -> bool:
    """End the engine and all it started; returns False when it was gone already.

    Another process that has its pid by now is left alone. Raises `EngineStays` when it cannot be ended.
    """
    return process.stop(endpoint.process, GRACE_SECONDS)


def ask(
    endpoint: RunningEngine, messages: Sequence[Mapping[str, str]], max_tokens: int, timeout: float
) -> ChatReply:
    """Greedy decoding of at most `max_tokens` tokens through /v1/chat/completions, within `timeout` seconds.

    Raises `RequestFailed` for a refusal, a broken connection, or an answer of another shape.
    """
    chat = [dict(message) for message in messages]
    body = {"model": endpoint.alias, "messages": chat, "max_tokens": max_tokens, "temperature": 0}
    body["reasoning_format"] = "none"  # as evaluations record answers
    answer = _call(endpoint, "/v1/chat/completions", body, timeout)
    try:
        usage, choice = answer["usage"], answer["choices"][0]
        text = choice["message"]["content"] or ""
        return ChatReply(text, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (KeyError, IndexError, TypeError, ValueError):
        raise RequestFailed(
            f"{endpoint.url}/v1/chat/completions answered in another shape than a chat completion's: "
            f"{json.dumps(answer)[:300]}; see {endpoint.log}"
        ) from None


def _call(endpoint: RunningEngine, route: str, body: Mapping[str, object] | None, timeout: float) -> Any:
    import httpx  # a gate is installed without it

    try:  # an engine is on loopback, where a proxy of the environment would not find it
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, endpoint.url + route, json=body, timeout=timeout, trust_env=False)
        if answer.is_success:
            return answer.json()
    except (httpx.HTTPError, ValueError) as error:  # a ValueError: invalid JSON
        raise RequestFailed(f"{endpoint.url}{route} gave no answer ({error}); see {endpoint.log}") from None
    raise RequestFailed(
        f"{endpoint.url}{route} answered {answer.status_code}: {answer.text[:500]}; see {endpoint.log}"
    )
