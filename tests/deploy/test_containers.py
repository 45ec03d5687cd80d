"""The image, built and run; compose.yaml, brought up on it, and a tenant answered through its gateway."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.seconds import seconds

TREE = Path(__file__).resolve().parents[2]
LARGEST = 2_600_000_000
"""Bytes of the image, beside its base; docs/deploy.md says what of it is what."""
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
ANYBODY = ["--user=20000:20000", "--tmpfs=/tmp", "--env=HOME=/tmp", "--env=TUNELINE_HOME=/tmp/home"]

pytestmark = pytest.mark.deploy


def podman(*arguments: str, fails: bool = False) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=seconds(300))
    assert fails or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inside(image: str, *command: str) -> str:
    """What a program of the image prints, as a user that it does not know, with nothing writable but /tmp."""
    run = ["run", "--rm", "--pull=never", *HARDENED, *ANYBODY, f"--entrypoint={command[0]}"]
    return podman(*run, image, *command[1:])


def test_the_image_is_no_larger_than_its_document_says(image: str) -> None:
    history = json.loads(podman("image", "inspect", image))[0]
    assert history["Size"] < LARGEST
    assert history["Config"]["User"] == "10001:10001"


def test_it_runs_read_only_as_a_user_that_it_does_not_know(image: str, tree: Path) -> None:
    assert inside(image, "tuneline", "--version").startswith("tuneline ")
    checks = {
        one["subject"]: one for one in json.loads(inside(image, "tuneline", "doctor", "--json"))["checks"]
    }
    looked = {"python", "packages", "prefect", "arithmetic", "ports", "registry", "store"}
    assert {subject: checks[subject]["state"] for subject in looked} == dict.fromkeys(looked, "ok")
    assert "cannot" not in checks["disk"]["found"]


@pytest.mark.parametrize("program", ["gcc", "g++", "cc", "make", "git", "pytest", "mypy"])
def test_what_only_builds_or_tests_is_not_in_it(image: str, program: str) -> None:
    assert inside(image, "sh", "-c", f"command -v {program} || true") == ""


def test_every_stage_runs_in_it_without_a_compiler_and_without_a_network(image: str) -> None:
    quantize = "quantize=[{method: gguf, type: Q8_0}, {method: gptq, group_size: 32, calibration_rows: 8}]"
    outcome = json.loads(inside(image, "tuneline", "run", "pico-smoke", "--set", quantize, "--json"))
    assert outcome["exit_code"] == 0


class Compose:
    """A project of its own, on ports of its own, whose gateway serves the model that the test makes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.project = folder, f"tuneline-test-{os.getpid()}"
        for name in ("compose.yaml", "serve.yaml"):
            shutil.copy(TREE / "deploy" / name, folder)
        self._ports = {declared: free_port() for declared in ("8080", "9090", "4200")}
        self._replace(
            "compose.yaml", *((f"127.0.0.1:{old}:", f"127.0.0.1:{self._ports[old]}:") for old in self._ports)
        )
        self._replace(
            "serve.yaml",
            ("model: base@1", "model: pico-0-q8_0@1"),
            ("context_length: 2048", "context_length: 512"),
        )

    def _replace(self, name: str, *pairs: tuple[str, str]) -> None:
        text = (self._folder / name).read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (self._folder / name).write_text(text)

    def __call__(self, *arguments: str) -> str:
        program = Path(sys.executable).with_name("podman-compose")
        assert program.is_file(), "podman-compose is not installed: `make test-deploy` does that"
        command = [str(program), "-p", self.project, "-f", str(self._folder / "compose.yaml"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(400))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def address(self, declared: str, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[declared]}{path}"

    def container(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def wait(self, service: str) -> None:
        """Until the service's own health check passes."""
        limit = time.monotonic() + seconds(180)
        check = ["podman", "healthcheck", "run", self.container(service)]
        while subprocess.run(check, capture_output=True, timeout=seconds(60)).returncode != 0:
            assert time.monotonic() < limit, podman("logs", self.container(service))[-3000:]
            time.sleep(0.5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def compose(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    compose = Compose(tmp_path_factory.mktemp("compose"))
    try:
        compose("up", "--detach", "prefect", "worker")
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", "30")
    assert compose.project not in podman("ps", "--all", "--format", "{{.Names}}")
    assert compose.project not in podman("volume", "ls", "--format", "{{.Name}}")


@pytest.fixture(scope="module")
def key(compose: Compose) -> str:
    """A tenant's key, after a run in the worker's container has made something to serve."""
    compose("exec", "-T", "worker", "tuneline", "run", "pico-tenant")
    added = compose("exec", "-T", "worker", "tuneline", "tenants", "add", "one", "pico/tenant", "--json")
    compose("up", "--detach", "gateway")
    compose.wait("gateway")
    return str(json.loads(added)["key"])


def test_prefects_pages_are_served_from_a_read_only_root(compose: Compose) -> None:
    compose.wait("prefect")
    html = {"accept": "text/html"}
    page = httpx.get(
        compose.address("4200", "/dashboard"), headers=html, follow_redirects=True, timeout=seconds(20)
    )
    assert page.status_code == 200
    assert "<html" in page.text.lower()


def test_the_worker_is_heard_by_the_server(compose: Compose) -> None:
    compose.wait("prefect")
    address, limit = (
        compose.address("4200", "/api/work_pools/tuneline/workers/filter"),
        time.monotonic() + seconds(120),
    )
    while not (found := httpx.post(address, json={}, timeout=seconds(20))).is_success or not found.json():
        assert time.monotonic() < limit, podman("logs", compose.container("worker"))[-3000:]
        time.sleep(0.5)
    assert [worker["status"] for worker in found.json()] == ["ONLINE"]


def test_a_tenant_is_answered_through_the_gateway(compose: Compose, key: str) -> None:
    question = {"model": "pico/tenant", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    address = compose.address("8080", "/v1/chat/completions")
    answer = httpx.post(
        address, json=question, headers={"Authorization": f"Bearer {key}"}, timeout=seconds(60)
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert httpx.post(address, json=question, timeout=seconds(20)).status_code == 401
    assert "tuneline_" in httpx.get(compose.address("9090", "/metrics"), timeout=seconds(20)).text


@pytest.mark.parametrize("service", ["gateway", "prefect", "worker"])
def test_a_service_writes_nowhere_else_and_has_no_power(compose: Compose, key: str, service: str) -> None:
    script = "for d in / /opt/tuneline /etc /usr /var; do touch $d/x 2>/dev/null && echo $d; done; "
    script += "id -u; grep CapEff /proc/1/status"
    words = podman("exec", compose.container(service), "sh", "-c", script).split()
    assert words == ["10001", "CapEff:", "0000000000000000"]
