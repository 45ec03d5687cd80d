"""Deploy an artifact on a serving engine and prove that it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from registry.evaluation_results import Item, first_heldout, read_items
from registry.quantization import STORED
from serving import errors, standalone
from serving.standalone import RunningEngine
from stages.compatible import require_compatible
from stages.config.deploy import DeployConfig
from stages.contract import Parent, Parents
from stages.errors import InvalidInput, MissingPackage, StageError
from stages.formats.messages import as_request

FALLBACK_QUESTION = "Hello, what can you do?"
"""Asked when the recipe names no question: an engine that was never asked is not proved to work."""

ANSWER_TIMEOUT = 120.0
"""Seconds for the smoke test's answer."""


class ChangedAnswer(TypedDict):
    """What a `file` answered to an item when it was evaluated, and what its `endpoint` did."""

    document: int
    file: str
    endpoint: str


class Probe(TypedDict):
    """Held-out items that an endpoint was `asked`, with the `same` answers, with prompts of the same length,
    and the `different` ones."""

    asked: int
    same: int
    same_prompt: int
    different: list[ChangedAnswer]


class DeployFacts(BaseModel):
    """A running endpoint and what it said, as the registry writes it down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact_id: str
    alias: str = Field(description="the model name that requests use")
    engine: Literal["llama.cpp", "vllm"]
    url: str
    pid: int
    pid_started: float = Field(description="seconds since the epoch; with the pid it names the process")
    log: Path
    question: str
    answer: str
    config: dict[str, Any]
    probe: dict[str, Any] | None = Field(
        default=None,
        description="held-out items: `asked`, `same` answers, `same_prompt` lengths, `different` ones",
    )


def deploy(parents: Parents, config: DeployConfig, out: Path) -> DeployFacts:
    """Serve `parents["model"]` and ask it once; the engine keeps running when this returns.

    llama.cpp serves a GGUF artifact (`model.gguf`), vLLM a merged or GPTQ one. With `parents["base"]` the
    smoke test's prompt must be as many tokens as the base's tokenizer and chat template make of it. With
    `parents["evaluation"]` and `parents["dataset"]` the first items of its first held-out task are asked
    again, and the answers compared with those that the file itself gave.
    `out` holds the engine's log from now on, so it is no draft that moves.
    Raises `InvalidInput`, `MissingPackage` or `StageError`; no engine is left running then.
    """
    model = parents["model"]
    _check_pairing(model, config)
    require_compatible("deploy", config, parents)
    try:
        endpoint = standalone.start(model.id, model.path, config, out / "engine.log", model)
    except errors.EngineMissing as error:
        raise MissingPackage(str(error)) from error
    except (errors.NotServable, errors.PortTaken) as error:
        raise InvalidInput(str(error)) from error
    except errors.ServingError as error:
        raise StageError(str(error)) from error
    try:
        facts = _smoke_test(endpoint, config, parents.get("base"))
        return facts.model_copy(update={"probe": _probe(endpoint, config, parents)})
    except BaseException:
        standalone.stop(endpoint)
        raise


def _check_pairing(model: Parent, config: DeployConfig) -> None:
    method = model.quant.method if model.quant else "none"
    if model.kind == "adapter":
        raise InvalidInput(
            f"{model.id[:12]} is an adapter, which is not a model by itself; merge it into its base and "
            "quantize that, or serve it with `tuneline serve`, beside a base that is loaded once"
        )
    if STORED[method].engine != config.engine:
        what = f"{model.kind} artifact {model.id[:12]} (quantization: {method})"
        raise InvalidInput(
            f"engine {config.engine} does not serve the {what}; llama.cpp serves GGUF files, vLLM serves "
            f"merged and GPTQ models: set deploy.engine, or deploy another artifact"
        )


def _smoke_test(endpoint: RunningEngine, config: DeployConfig, base: Parent | None) -> DeployFacts:
    question = config.question or FALLBACK_QUESTION
    messages = [{"role": "user", "content": question}]
    if config.system is not None:
        messages.insert(0, {"role": "system", "content": config.system})
    try:
        reply = standalone.ask(endpoint, messages, config.max_new_tokens, ANSWER_TIMEOUT)
    except errors.RequestFailed as error:
        raise StageError(f"the smoke test failed and the engine was stopped: {error}") from error
    if base is not None:
        _check_parity(base, messages, reply.prompt_tokens)
    if not reply.text.strip():
        raise StageError(
            f"the smoke test's answer to {question!r} is empty ({reply.completion_tokens} tokens, none "
            f"of them text), so the engine was stopped; see what the model says in its evaluation's answers"
        )
    return DeployFacts(
        artifact_id=endpoint.artifact_id,
        alias=endpoint.alias,
        engine=endpoint.engine,
        url=endpoint.url,
        pid=endpoint.process.pid,
        pid_started=endpoint.process.started,
        log=endpoint.log,
        question=question,
        answer=reply.text,
        config=config.model_dump(mode="json"),
    )


def _probe(endpoint: RunningEngine, config: DeployConfig, parents: Parents) -> Probe | None:
    """None where there is nothing to compare with."""
    logged = _logged(parents["evaluation"].path, config.probes) if "evaluation" in parents else None
    if logged is None or "dataset" not in parents or "base" not in parents:
        return None
    from stages.backends.evaluate.prompts import prompts

    rows, limit = logged
    chats = prompts(parents["dataset"].path, parents["base"].path, [row["document"] for row in rows])
    same_prompt = 0
    different: list[ChangedAnswer] = []
    asked = 0
    for row, (chat, _, tokens) in zip(rows, chats, strict=True):
        if (messages := as_request(chat)) is None:
            continue
        asked += 1
        try:
            reply = standalone.ask(endpoint, messages, limit, ANSWER_TIMEOUT)
        except errors.RequestFailed as error:
            raise StageError(f"a held-out item got no answer, the engine was stopped: {error}") from error
        same_prompt += reply.prompt_tokens == tokens
        logged_answer, answer = row["answer"].strip(), reply.text.strip()
        if answer != logged_answer:
            different.append({"document": row["document"], "file": logged_answer, "endpoint": answer})
    if not asked:
        return None
    return {
        "asked": asked,
        "same": asked - len(different),
        "same_prompt": same_prompt,
        "different": different,
    }


def _logged(evaluation: Path, count: int) -> tuple[list[Item], int] | None:
    """The first `count` items of the first held-out task, and the length of an answer in tokens."""
    heldout = first_heldout(evaluation)
    if heldout is None or not count:
        return None
    return read_items(evaluation, heldout, count), int(heldout["config"]["max_new_tokens"])


def _check_parity(base: Parent, messages: list[dict[str, str]], counted: int) -> None:
    """The engine's prompt against the one the model was trained on; a template that is rendered differently
    shows here before it shows as gibberish."""
    from stages.backends.chat import encode, load_tokenizer

    expected = len(encode(load_tokenizer(base.path), messages, add_generation_prompt=True))
    if counted != expected:
        raise StageError(
            f"the engine makes {counted} tokens of the smoke test's chat, the base's own tokenizer and chat "
            f"template make {expected}: the served file renders chats differently than in training, so the "
            "engine was stopped; quantize again from a model with the base's tokenizer files"
        )
