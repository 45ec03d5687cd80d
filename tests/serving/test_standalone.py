"""Engines on a real model: start, ask, outlive, stop; and on a fake engine, what goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving import standalone
from serving.errors import EngineFailed, NotServable, PortTaken, RequestFailed
from serving.process import process
from serving.standalone import RunningEngine
from stages.config.deploy import DeployConfig
from tests.seconds import seconds

ID = "0123456789ab" + "f" * 52
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
TREE = Path(__file__).resolve().parents[2]


@pytest.fixture
def started(smollm2_gguf: Path, config: DeployConfig, tmp_path: Path) -> Iterator[RunningEngine]:
    endpoint = standalone.start(ID, smollm2_gguf, config, tmp_path / "engine.log")
    yield endpoint
    standalone.stop(endpoint)


def post(endpoint: RunningEngine, route: str, **body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        endpoint.url + route, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds(60)) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_an_engine_answers_until_it_is_stopped(started: RunningEngine) -> None:
    assert started.alias == "tuneline-0123456789ab"
    assert started.process.is_alive()
    reply = standalone.ask(started, FRANCE, max_tokens=8, timeout=seconds(60))
    assert reply.text.strip()
    assert reply.completion_tokens <= 8
    assert standalone.ask(started, FRANCE, max_tokens=8, timeout=seconds(60)).text == reply.text

    assert standalone.stop(started) is True
    assert not started.process.is_alive()
    assert standalone.stop(started) is False
    with pytest.raises(RequestFailed, match="gave no answer"):
        standalone.ask(started, FRANCE, max_tokens=8, timeout=seconds(5))


def test_an_engine_for_a_block_ends_with_it(smollm2_gguf: Path, config: DeployConfig, tmp_path: Path) -> None:
    with standalone.while_used(ID, smollm2_gguf, config, tmp_path / "engine.log") as endpoint:
        assert standalone.ask(endpoint, FRANCE, max_tokens=1, timeout=seconds(60)).completion_tokens == 1
    assert not endpoint.process.is_alive()
    with (
        pytest.raises(ZeroDivisionError),
        standalone.while_used(ID, smollm2_gguf, config, tmp_path / "engine.log") as endpoint,
    ):
        raise ZeroDivisionError
    assert not endpoint.process.is_alive()


def test_only_its_own_model_is_answered(started: RunningEngine) -> None:
    for route, body in {
        "/v1/chat/completions": {"messages": FRANCE, "max_tokens": 1},
        "/v1/completions": {"prompt": "Paris", "max_tokens": 1},
    }.items():
        status, said = post(started, route, model="gpt-4", **body)
        assert status == 404, route
        assert said["error"]["code"] == "model_not_found"
        assert "'gpt-4'" in said["error"]["message"]
        assert started.alias not in said["error"]["message"], "names of others are not told"
        assert post(started, route, model=started.alias, **body)[0] == 200, route
    stream = {"messages": FRANCE, "max_tokens": 1, "stream": True}
    assert post(started, "/v1/chat/completions", model="gpt-4", **stream)[0] == 404
    assert post(started, "/extras/tokenize", input="Paris")[0] == 404, "no other routes"


def test_no_request_is_penalized_unless_it_asks(started: RunningEngine) -> None:
    def say(**options: float) -> str:
        body = {"messages": FRANCE, "max_tokens": 24, "temperature": 0, **options}
        text: str = post(started, "/v1/chat/completions", model=started.alias, **body)[1]["choices"][0][
            "message"
        ]["content"]
        return text

    assert say() == say(repeat_penalty=1.0)
    assert say() != say(repeat_penalty=1.1)


def test_a_busy_engine_is_healthy(started: RunningEngine) -> None:
    body = {"model": started.alias, "messages": FRANCE, "max_tokens": 200, "stream": True, "temperature": 0}
    request = urllib.request.Request(
        started.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )

    def get(route: str) -> int:
        with urllib.request.urlopen(started.url + route, timeout=seconds(60)) as response:
            status: int = response.status
            return status

    with urllib.request.urlopen(request, timeout=seconds(60)) as stream:
        assert stream.readline().startswith(b"data: ")
        assert get("/v1/models") == 200
        assert get("/health") == 200
        assert stream.read().endswith(b"data: [DONE]\n\n")


def test_a_web_page_may_not_call_it(started: RunningEngine) -> None:
    request = urllib.request.Request(started.url + "/v1/models", headers={"Origin": "http://evil.example"})
    with urllib.request.urlopen(request, timeout=seconds(10)) as response:
        assert "access-control-allow-origin" not in response.headers


def test_foreign_environment_variables_change_nothing(
    smollm2_gguf: Path, config: DeployConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"API_KEY": "secret", "CONFIG_FILE": "/nowhere", "SEED": "no number", "HOST": "0.0.0.0"}
    for name, value in {
        **settings,
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    endpoint = standalone.start(ID, smollm2_gguf, config, tmp_path / "engine.log")
    try:
        assert standalone.ask(endpoint, FRANCE, max_tokens=2, timeout=seconds(60)).text
        port = int(endpoint.url.rpartition(":")[2])
        assert [
            c.laddr.ip for c in psutil.Process(endpoint.process.pid).net_connections() if c.laddr.port == port
        ]
        assert {
            c.laddr.ip
            for c in psutil.Process(endpoint.process.pid).net_connections()
            if c.status == psutil.CONN_LISTEN
        } == {"127.0.0.1"}
    finally:
        standalone.stop(endpoint)


def test_two_engines_stand_side_by_side(
    smollm2_gguf: Path, config: DeployConfig, tmp_path: Path, started: RunningEngine
) -> None:
    other = standalone.start("e" * 64, smollm2_gguf, config, tmp_path / "other.log")
    try:
        assert other.url != started.url
        assert standalone.ask(other, FRANCE, max_tokens=4, timeout=seconds(60)).text
    finally:
        assert standalone.stop(other)
    assert standalone.ask(started, FRANCE, max_tokens=4, timeout=seconds(60)).text


STARTER = """
import pickle, sys, time
from pathlib import Path
from serving import standalone as engine
from stages.deploy import DeployConfig
config = DeployConfig(context_length=256, threads=1)
endpoint = engine.start(sys.argv[1], Path(sys.argv[2]), config, Path(sys.argv[3]))
print(pickle.dumps(endpoint).hex(), flush=True)
time.sleep(600)
"""


def test_an_engine_outlives_a_killed_starter(smollm2_gguf: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STARTER, ID, str(smollm2_gguf), str(tmp_path / "engine.log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=TREE, start_new_session=True) as starter:
        assert starter.stdout is not None
        endpoint = pickle.loads(bytes.fromhex(starter.stdout.readline().decode()))
        os.killpg(starter.pid, signal.SIGKILL)
    try:
        assert standalone.ask(endpoint, FRANCE, max_tokens=4, timeout=seconds(60)).text
    finally:
        assert standalone.stop(endpoint)
    assert not endpoint.process.is_alive()


def test_a_taken_port_names_who_has_it(smollm2_gguf: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} on 127.0.0.1 is taken by process {os.getpid()} "):
            standalone.start(ID, smollm2_gguf, DeployConfig(port=port), tmp_path / "engine.log")


def test_a_given_port_can_be_had_again_at_once(
    fake_engine: Callable[..., None], smollm2_gguf: Path, tmp_path: Path
) -> None:
    fake_engine()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for _ in range(2):
        endpoint = standalone.start(ID, smollm2_gguf, DeployConfig(port=port), tmp_path / "engine.log")
        assert endpoint.url == f"http://127.0.0.1:{port}"
        standalone.ask(endpoint, FRANCE, max_tokens=1, timeout=seconds(10))
        standalone.stop(endpoint)


def test_ipv6_loopback(fake_engine: Callable[..., None], smollm2_gguf: Path, tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    fake_engine()
    endpoint = standalone.start(ID, smollm2_gguf, DeployConfig(host="::1"), tmp_path / "engine.log")
    assert endpoint.url.startswith("http://[::1]:")
    assert standalone.ask(endpoint, FRANCE, max_tokens=1, timeout=seconds(10)).text == "Hello!"
    standalone.stop(endpoint)


def test_a_privileged_or_foreign_address_is_refused() -> None:
    with pytest.raises(NotServable, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        process.listen("192.0.2.1", 0)


def test_what_is_no_gguf_is_refused_before_anything_starts(config: DeployConfig, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"\x80\x02pickle")
    with pytest.raises(NotServable, match=r"model\.gguf is not a GGUF file"):
        standalone.start(ID, tmp_path, config, tmp_path / "engine.log")
    with pytest.raises(NotServable, match="No such file"):
        standalone.start(ID, tmp_path / "nowhere", config, tmp_path / "engine.log")
    assert not (tmp_path / "engine.log").exists()


def test_a_truncated_gguf_fails_with_the_engines_own_words(
    smollm2_gguf: Path, config: DeployConfig, tmp_path: Path
) -> None:
    with smollm2_gguf.open("rb") as whole:
        (tmp_path / "model.gguf").write_bytes(whole.read(20_000_000))
    with pytest.raises(EngineFailed, match="ended before it was ready") as failure:
        standalone.start(ID, tmp_path, config, tmp_path / "engine.log")
    assert "model is corrupted or incomplete" in str(failure.value)
    assert re.search(r"engine \d+ ended: status 1", str(failure.value))
    assert "Traceback" not in str(failure.value)


def test_a_gguf_without_a_chat_template_is_refused(
    smollm2_gguf: Path, config: DeployConfig, tmp_path: Path
) -> None:
    renamed = smollm2_gguf.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_tampered", 1)
    (tmp_path / "model.gguf").write_bytes(renamed)
    with pytest.raises(EngineFailed, match="the file has no chat template; give one"):
        standalone.start(ID, tmp_path, config, tmp_path / "engine.log")


def test_an_engine_that_never_listens_is_stopped(
    monkeypatch: pytest.MonkeyPatch, smollm2_gguf: Path, tmp_path: Path
) -> None:
    idle = process.Launch(
        (sys.executable, "-c", "import signal; print('still loading', flush=True); signal.pause()")
    )
    monkeypatch.setitem(standalone.LAUNCHERS, "llama.cpp", lambda *_, **__: idle)
    config = DeployConfig(ready_timeout=0.5)
    with pytest.raises(
        EngineFailed, match=r"not ready after 0\.5 s and has been stopped(.|\n)*still loading"
    ):
        standalone.start(ID, smollm2_gguf, config, tmp_path / "engine.log")


def test_time_to_live(fake_engine: Callable[..., None], smollm2_gguf: Path, tmp_path: Path) -> None:
    fake_engine()
    config = DeployConfig(ttl_minutes=0.03)
    endpoint = standalone.start(ID, smollm2_gguf, config, tmp_path / "engine.log")
    assert endpoint.process.is_alive()
    psutil.wait_procs([psutil.Process(endpoint.process.pid)], timeout=seconds(20))
    assert not endpoint.process.is_alive()
    assert "its 0.03 minutes have passed" in endpoint.log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--status", "500"), "answered 500"),
        (("--garbage",), "another shape than a chat completion's"),
    ],
)
def test_what_is_no_answer_is_an_error(
    fake_engine: Callable[..., None],
    smollm2_gguf: Path,
    tmp_path: Path,
    config: DeployConfig,
    options: tuple[str, ...],
    message: str,
) -> None:
    fake_engine(*options)
    endpoint = standalone.start(ID, smollm2_gguf, config, tmp_path / "engine.log")
    try:
        with pytest.raises(RequestFailed, match=message):
            standalone.ask(endpoint, FRANCE, max_tokens=1, timeout=seconds(10))
    finally:
        standalone.stop(endpoint)
