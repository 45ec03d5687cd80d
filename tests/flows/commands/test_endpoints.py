"""`tuneline endpoints`: a process that stands for several engines is not ended for one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows import cli
from flows.commands.serving.serve import with_arithmetic
from flows.deployment import _serves, settled
from flows.settings import Settings
from registry import Registry
from registry.processes import ProcessId
from registry.tenancy.endpoints import IN_GATEWAY, Endpoint
from serving.gateway.config import ServeConfig
from stages.config.deploy import DeployConfig
from tests.flows.evaluation_files import Lineage
from tests.seconds import seconds


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    with Registry.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """In the place of a gateway, or of an engine."""
    words = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as started:
        yield psutil.Process(started.pid)
        started.kill()


def endpoint(registry: Registry, artifact: str, process: psutil.Process, url: str) -> Endpoint:
    known = ProcessId.of(process.pid)
    return registry.endpoints.add(
        artifact_id=artifact, engine="llama.cpp", url=url, process=known, log="engine.log"
    )


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_one_engine_of_a_gateway_does_not_end_the_others(
    registry: Registry, process: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = Lineage(registry).base.id
    first, second = (endpoint(registry, artifact, process, f"{IN_GATEWAY}{n}-0") for n in (0, 1))
    code, said = say(capsys, "endpoints", "stop", first.id)
    assert code == 3
    assert f"process {process.pid}, with 2 engines" in said["error"]
    assert f"tuneline endpoints stop {first.id} --gateway" in said["error"]
    assert process.status() != psutil.STATUS_ZOMBIE
    assert [row["alive"] for row in say(capsys, "endpoints")[1]] == [True, True], "without a verb it lists"

    why = say(capsys, "artifacts", "gc", "--why", artifact)[1]
    said_why = json.dumps(why)
    assert f"endpoints stop {first.id} --gateway" in said_why
    assert "take it out of serve.yaml" in said_why

    code, said = say(capsys, "endpoints", "stop", first.id, "--gateway")
    assert (code, set(said["endpoints"])) == (0, {first.id, second.id})
    assert not first.process.is_alive()
    assert say(capsys, "endpoints", "ls")[1] == []


def test_a_gateway_that_is_gone_is_only_written_off(
    registry: Registry, process: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    row = endpoint(registry, Lineage(registry).base.id, process, f"{IN_GATEWAY}0-0")
    process.kill()
    process.wait(seconds(10))
    assert say(capsys, "endpoints", "stop", row.id)[0] == 0
    assert registry.endpoints.get(row.id).stopped is not None


def test_an_engine_of_its_own_is_stopped(
    registry: Registry, process: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    row = endpoint(registry, Lineage(registry).base.id, process, "http://127.0.0.1:1")
    code, said = say(capsys, "endpoints", "stop", row.id, "--gateway")
    assert (code, "does not belong to a gateway; leave out --gateway" in said["error"]) == (3, True)
    assert say(capsys, "endpoints", "stop", row.id) == (
        0, {"id": row.id, "stopped": True, "endpoints": [row.id]},
    )  # fmt: skip
    assert not row.process.is_alive()


class Answer:
    """In the place of a run's arithmetic, and of a machine's speed."""

    def __init__(self, compute_dtype: str) -> None:
        self.compute_dtype = compute_dtype


def test_an_endpoint_is_called_what_its_channel_is_and_computes_as_the_run_did() -> None:
    plain = DeployConfig(engine="vllm")
    slow: Any = Answer("float32")
    fast: Any = Answer("bfloat16")
    assert settled(plain, "demo/prod", slow).model_dump(exclude_defaults=True) == {
        "engine": "vllm", "name": "demo/prod", "dtype": "float32",
    }  # fmt: skip
    for arithmetic in (fast, None):
        assert settled(plain, "demo/prod", arithmetic).dtype == "auto"
    own = DeployConfig(name="mine", dtype="bfloat16")
    assert settled(own, "demo/prod", slow) == own


def test_an_endpoint_that_is_older_than_a_key_is_used_again() -> None:
    config = DeployConfig(engine="vllm", name="demo/prod")
    recorded = config.model_dump(mode="json") | {"probe": None}
    del recorded["tool_call_parser"]
    endpoint: Any = SimpleNamespace(artifact_id="a", config=recorded, process=ProcessId.of())
    artifact: Any = SimpleNamespace(id="a")
    assert _serves(endpoint, artifact, config)
    assert not _serves(endpoint, artifact, config.model_copy(update={"tool_call_parser": "hermes"}))


def test_a_gateways_engines_compute_as_the_machine_does_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines = [{"engine": "vllm", "model": "a"}, {"engine": "vllm", "model": "a", "dtype": "bfloat16"}]
    config = ServeConfig.model_validate({"engines": [*engines, {"engine": "llama.cpp", "model": "b"}]})
    for answer, expected in (("float32", "float32"), ("bfloat16", "auto")):
        monkeypatch.setattr(
            "flows.commands.serving.serve.machine_speed", lambda *_, said=answer: Answer(said)
        )
        found = [one.dtype for one in with_arithmetic(config, Settings()).engines]
        assert found == [expected, "bfloat16", "auto"]
    monkeypatch.setattr("flows.commands.serving.serve.machine_speed", None)
    none = ServeConfig.model_validate({"engines": [{"engine": "llama.cpp", "model": "b"}]})
    assert with_arithmetic(none, Settings()) is none, "nothing is measured where nobody asks"
