"""Bytes that no well-meaning client sends, and a gateway to send them to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from registry import Registry
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import CHECKOUT, SLOWEST, Gateway, marked, stop, until
from tests.serving.populated_registry import PopulatedRegistry

CHAT = "/v1/chat/completions"


@dataclass
class RecordingGateway(Gateway):
    """A gateway whose engine writes down what it is asked."""

    record: Path = Path()
    state: Path = Path()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").removesuffix("/v1").rsplit(":", 1)
        return host, int(port)

    def asked(self) -> list[dict[str, Any]]:
        """What the engine was asked, from the first request on."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def held(self) -> dict[str, int]:
        """Its tasks, what its engine works on, who uses an adapter; its open files.

        Without connections to the engine, of which idle ones are kept for 15 s, and to the registry, of which
        a pool keeps as many as were once needed at the same time.
        """
        self.state.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        until(self.state.exists, "the gateway says what it holds")
        process = psutil.Process(self.process.pid)
        pooled = [one for one in process.open_files() if "registry.db" in one.path]
        files = process.num_fds() - len(process.net_connections("unix")) - len(pooled)
        return json.loads(self.state.read_text()) | {"files": files}

    def idle_as(self, before: dict[str, int]) -> None:
        """Wait until it holds no more than then."""
        until(lambda: all(self.held()[name] <= most for name, most in before.items()), f"idle as {before}")

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far, every line of which has to be a JSON object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def recording(
    populated: PopulatedRegistry, folder: Path, bounds: dict[str, Any]
) -> Iterator[RecordingGateway]:
    """A gateway and its recording engine inside the block; afterwards nothing of them is left."""
    config, log, record, state = (folder / f"recorded.{end}" for end in ("yaml", "log", "jsonl", "state"))
    record.touch()
    section = {"engine": "llama.cpp", "model": "pico-base@1", "adapters": 1, "context_length": 2048}
    free = {"port": 0}
    config.write_text(
        json.dumps({"gateway": free, "operations": free, "engines": [section], "bounds": bounds})
    )
    mark = f"{os.getpid()}-{folder.name}"
    environment = {k: v for k, v in os.environ.items() if k != "TEST_RUN"}
    environment |= {"TUNELINE_HOME": str(populated.home), "TEST_GATEWAY": mark}
    argv = [
        sys.executable,
        "-m",
        "tests.serving.gateway.recording_engine",
        str(config),
        str(record),
        str(state),
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=CHECKOUT, env=environment
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        said = json.loads(line)
        with Registry.open(populated.home) as registry:
            yield RecordingGateway(
                populated, registry, config, log, mark, process, said["url"], said["operations"],
                record=record, state=state,
            )  # fmt: skip
    finally:
        stop(process)
        _, staying = psutil.wait_procs(marked(mark), timeout=seconds(15))
        for one in staying:
            one.kill()
    assert not staying


def request(
    body: bytes = b"",
    key: str = "",
    line: str = f"POST {CHAT} HTTP/1.1",
    headers: Sequence[bytes] = (),
    length: bool = True,
    close: bool = True,
) -> bytes:
    """The bytes of a request; `headers` come last."""
    head = [line.encode(), b"Host: gateway"]
    head += [f"Authorization: Bearer {key}".encode()] if key else []
    head += [b"Content-Length: %d" % len(body)] if length else []
    head += [b"Connection: close"] if close else []
    return b"\r\n".join([*head, *headers]) + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Answer:
    """What came back, up to the end of the connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape, which everything that is refused has to have."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert found["message"]
        return found


def exchange(address: tuple[str, int], data: bytes) -> Answer:
    """Send the bytes and read until the gateway hangs up."""
    with socket.create_connection(address, timeout=SLOWEST) as client:
        with contextlib.suppress(ConnectionError):  # it may have hung up already
            client.sendall(data)
        return parsed(rest(client))


def rest(client: socket.socket) -> bytes:
    """What comes until the connection ends."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def parsed(raw: bytes) -> Answer:
    """The first answer in the bytes."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body, raw)
