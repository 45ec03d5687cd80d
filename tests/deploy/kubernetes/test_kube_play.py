"""What podman can run of the Kubernetes objects: Deployments as kustomize renders them, and their ConfigMap.

Other than on a cluster: the registry is a SQLite file in a volume, and the published ports are loopback's.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from serving.engine.naming import model_alias
from tests.deploy.kubernetes.test_objects import Objects, rendered
from tests.deploy.test_containers import free_port, podman
from tests.seconds import seconds

pytestmark = pytest.mark.deploy
MARK = f"tuneline-test-{os.getpid()}"
USER = 10001
NONE = "0" * 64
"""The artifact that engine.yaml names until somebody names theirs."""


def volume(name: str, path: Path, inside: str) -> str:
    """A volume of podman's with this file or folder in it, of the image's user."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = USER
        return member

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, inside, filter=owned)
    podman("volume", "create", name)
    subprocess.run(["podman", "volume", "import", name, "-"], input=archive.getvalue(), check=True)
    return name


class Played:
    """Deployments that podman plays, each with its ports on free ones of loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, list[Path]()

    def play(
        self, objects: Objects, name: str, image: str, claims: dict[str, str], registry: str | None = None
    ) -> dict[str, int]:
        """Port's name → port. `claims`: volume of the Pod → the volume of podman's that stands in for it."""
        deployment = copied(objects)["Deployment", name]
        deployment["metadata"]["name"] = f"{MARK}-{name}"
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        container["image"] = image
        for source in container.get("envFrom", []):
            source["secretRef"]["name"] = registry
        ports = {port["name"]: free_port() for port in container["ports"]}
        for port in container["ports"]:
            port |= {"hostPort": ports[port["name"]], "hostIP": "127.0.0.1"}
        for mounted in spec["volumes"]:
            if mounted["name"] in claims:
                mounted.pop("emptyDir", None)
                mounted["persistentVolumeClaim"] = {"claimName": claims[mounted["name"]]}
        others = [found for (kind, _), found in objects.items() if kind == "ConfigMap"]
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all([*others, deployment]))
        self._files.append(file)
        podman("kube", "play", str(file))
        return ports

    def down(self) -> None:
        for file in self._files:
            podman("kube", "down", str(file))


def copied(objects: Objects) -> Objects:
    return {key: json.loads(json.dumps(found)) for key, found in objects.items()}


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    played = Played(tmp_path)
    try:
        yield played
    finally:
        played.down()
        for name in podman("volume", "ls", "--format", "{{.Name}}").split():
            if name.startswith(MARK):
                podman("volume", "rm", name)
        podman("secret", "rm", MARK, fails=True)


def until_well(address: str, container: str) -> None:
    limit = time.monotonic() + seconds(120)
    while not answers(address):
        assert time.monotonic() < limit, podman("logs", container)[-3000:]
        time.sleep(0.3)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=seconds(5)).status_code == 200
    except httpx.TransportError:
        return False


def ask(port: int, model: str, key: str) -> int:
    question = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    address = f"http://127.0.0.1:{port}/v1/chat/completions"
    known = {"Authorization": f"Bearer {key}"}
    return httpx.post(address, json=question, headers=known, timeout=seconds(60)).status_code


def largest_gguf(home: Path) -> Path:
    """The base; the adapter over it is smaller."""
    files = [path for path in (home / "blobs").rglob("*") if path.is_file()]
    ggufs = [path for path in files if path.read_bytes()[:4] == b"GGUF"]
    return max(ggufs, key=lambda path: path.stat().st_size)


def test_the_engines_deployment_answers(image: str, pico_home: Path, played: Played) -> None:
    models = volume(f"{MARK}-models", largest_gguf(pico_home), f"{NONE}/model.gguf")
    ports = played.play(rendered("engine"), "engine", image, {"models": models})
    until_well(f"http://127.0.0.1:{ports['http']}/health", f"{MARK}-engine-pod-0-llama-cpp")
    assert ask(ports["http"], model_alias(NONE), "none") == 200


def test_the_gateways_and_the_metrics_deployments_answer(image: str, pico_home: Path, played: Played) -> None:
    command = [sys.executable, "-m", "flows.cli", "tenants", "add", "kube", "pico/tenant", "--json"]
    environment = {**os.environ, "TUNELINE_HOME": str(pico_home)}
    added = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    objects = with_the_pico_base(rendered("overlays/cpu"))
    registry = secret({"TUNELINE_HOME": "/data/tuneline"})
    ports = {}
    for name in ("gateway", "metrics"):
        home = volume(f"{MARK}-{name}", pico_home, "tuneline")
        ports |= played.play(objects, name, image, {"home": home}, registry)
    until_well(f"http://127.0.0.1:{ports['operations']}/readyz", f"{MARK}-gateway-pod-0-gateway")
    assert ask(ports["http"], "pico/tenant", json.loads(added.stdout)["key"]) == 200
    assert ask(ports["http"], "pico/tenant", "another") == 401
    until_well(f"http://127.0.0.1:{ports['metrics']}/healthz", f"{MARK}-metrics-pod-0-metrics")
    numbers = httpx.get(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=seconds(30))
    assert "tuneline_" in numbers.text


def with_the_pico_base(objects: Objects) -> Objects:
    """The same, whose gateway serves the model that the test made."""
    changed = copied(objects)
    (config,) = [found for (kind, _), found in changed.items() if kind == "ConfigMap"]
    text = config["data"]["serve.yaml"].replace("base@1", "pico-0-q8_0@1")
    config["data"]["serve.yaml"] = text.replace("context_length: 2048", "context_length: 512")
    return changed


def secret(values: dict[str, str]) -> str:
    """A secret of podman's in place of the Secret `registry`; podman 4.3 cannot read those that it plays."""
    data = json.dumps({name: b64encode(value.encode()).decode() for name, value in values.items()})
    subprocess.run(["podman", "secret", "create", MARK, "-"], input=data, text=True, check=True)
    return MARK
