"""The commands that docs/serving.md shows, one after another as a reader types them, say what it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Tuneline
from tests.seconds import seconds

SECTION = re.compile(r"^## From nothing to an answer\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIFFERS = (
    (r"tl-[0-9a-f]{12}-[A-Za-z0-9_-]+", "KEY"), (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "ID"),
    (r"http://127\.0\.0\.1:\d+", "URL"), (r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME"), (r"[\d,]*\d", "N"),
    (r"\s+", " "),
)  # fmt: skip
"""What is another from run to run."""


def shown() -> list[tuple[str, str]]:
    """Each command of the section, and what it says below it."""
    section = SECTION.search((ROOT / "docs" / "serving.md").read_text("utf-8"))
    assert section is not None
    found = []
    for block in BLOCK.findall(section[1]):
        _, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
        found += [(command, said) for command, _, said in (part.partition("\n") for part in parts)]
    return found


def alike(text: str) -> str:
    for pattern, name in DIFFERS:
        text = re.sub(pattern, name, text)
    return text.strip()


@pytest.fixture
def shell(tenant: tuple[Tuneline, dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """Where a reader types: an empty folder, with the command on the path and the registry of the run."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**tenant[0].environment(), "PATH": path}
    return {"cwd": tmp_path, "env": environment, "text": True, "shell": True, "executable": "/bin/bash"}


@pytest.fixture
def gateway(shell: dict[str, Any]) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.terminate()
        assert one.wait(seconds(60)) == 0
        assert one.stdout is not None
        one.stdout.close()


def test_from_nothing_to_an_answer(
    shell: dict[str, Any], gateway: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    url, count = "", 0
    for command, said in shown():
        if command.startswith("cat "):
            (tmp_path / command.removeprefix("cat ")).write_text(said)
            continue
        if command.startswith("tuneline serve"):
            free = "exec " + command + " --set gateway.port=0 --set operations.port=0"
            gateway.append(subprocess.Popen(free, **shell, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            assert gateway[0].stdout is not None
            found = gateway[0].stdout.readline()
            url = found.split("/v1")[0].rpartition(" ")[2]
        else:
            questions = "".join(f"{line[2:]}\n" for line in said.splitlines() if line.startswith("> "))
            asked = command.replace("http://127.0.0.1:8080", url or "no gateway")
            done = subprocess.run(asked, **shell, capture_output=True, input=questions, timeout=seconds(600))
            assert done.returncode == 0, f"{asked}: {done.stderr}"
            found = done.stdout
        if key := re.search(r"^tl-\S+$", found, re.MULTILINE):
            shell["env"]["KEY"] = key[0]
        told = alike(found)
        for line in said.splitlines():
            if line.startswith("promote to") and "reused" in found:
                continue  # the run that the tests share has moved the channel already
            for part in line.split("…"):
                if not line.startswith("> "):
                    assert alike(part) in told, f"{command} does not say {part!r}: {found}"
                    count += 1
    assert count > 15, "the document was read"


def test_an_endpoint_is_asked_by_its_channel(pico: tuple[Tuneline, dict[str, Any]]) -> None:
    """What `make demo` leaves running answers to `tuneline chat CHANNEL`, as README has it."""
    tuneline = pico[0]
    run = tuneline.json("run", "pico-smoke")  # its endpoint may have come to the end of its time
    channel, endpoint = run["channel"]["name"], run["endpoint"]
    done = tuneline.json("chat", channel, "--message", "What is a computer?", "--max-tokens", "8")
    assert done["exit_code"] == 0
    assert done["turns"][0]["artifact"] == endpoint["artifact_id"]
    assert endpoint["config"]["name"] == channel
    too_long = tuneline("chat", channel, "--message", "What is a computer?", "--max-tokens", "100000")
    assert too_long.returncode == 3
    assert "or leave max_tokens out" in too_long.stderr
    listed = {row["id"]: row for row in json.loads(tuneline("endpoints", "--json").stdout)}
    assert listed[endpoint["id"]]["alive"]
