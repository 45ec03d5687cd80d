"""`tuneline api`: the API as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from tests.reliability.api import TOKEN
from tests.seconds import seconds


@contextlib.contextmanager
def served(
    home: Path, *arguments: str, **settings: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "flows.cli", "api", "--port", "0", "--json", *arguments]
    environment = {**os.environ, "TUNELINE_HOME": str(home), **settings}
    with Registry.open(home):
        pass  # what only reads makes none
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 60)
        assert ready, "it did not say where it listens"
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(tmp_path: Path, number: int) -> None:
    with served(tmp_path) as (process, told):
        with urllib.request.urlopen(f"{told['url']}/v1/artifacts", timeout=seconds(10)) as answer:
            assert json.load(answer) == {"items": [], "next": None}
            assert "server" not in answer.headers
        command = [sys.executable, "-m", "flows.cli", "api", "--port", told["url"].rpartition(":")[2]]
        environment = {**os.environ, "TUNELINE_HOME": str(tmp_path)}
        second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds(60))
        assert f"is taken by process {process.pid}" in second.stderr
        assert second.returncode == 3
        process.send_signal(number)
        out, err = process.communicate(timeout=seconds(30))
        assert (process.returncode, out, err) == (0, "", "")


def test_no_answer_waits_for_the_next_packet(tmp_path: Path) -> None:
    with served(tmp_path) as (_, told):
        connection = http.client.HTTPConnection("127.0.0.1", int(told["url"].rpartition(":")[2]))
        seconds = []
        for _ in range(20):
            begun = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            seconds.append(time.perf_counter() - begun)
        connection.close()
    assert min(seconds[1:]) < 0.03, "with Nagle's algorithm each answer takes 40 ms"


def test_the_command_asks_for_the_token(tmp_path: Path) -> None:
    with served(tmp_path, "--host", "0.0.0.0", TUNELINE_API_TOKEN=TOKEN) as (_, told):
        url = told["url"].replace("0.0.0.0", "127.0.0.1") + "/v1/artifacts"
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(url, timeout=seconds(10))
        refused.value.close()
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=seconds(10)) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("arguments", "token", "says"),
    [
        (["--host", "0.0.0.0"], None, "set TUNELINE_API_TOKEN"),
        (["--host", "0.0.0.0"], "short", "has 5 characters"),
        ([], "", "has 0 characters"),
        (["--port", "99999"], None, "99999"),
        (["--host", "host.invalid"], None, "set TUNELINE_API_TOKEN"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], token: str | None, says: str,
) -> None:  # fmt: skip
    from flows.cli import main

    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path))
    with Registry.open(tmp_path):
        pass
    monkeypatch.delenv("TUNELINE_API_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("TUNELINE_API_TOKEN", token)
    assert main(["api", *arguments]) == 3
    assert says in capsys.readouterr().err
