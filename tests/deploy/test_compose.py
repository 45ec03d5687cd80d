"""compose.yaml: known keys, names that exist, commands that parse; test_containers.py starts it."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from flows.cli import parser
from flows.commands.serving.serve import serve
from flows.retraining.deployments import POOL
from registry import Registry
from serving.gateway.config import ServeConfig


class Strict(BaseModel):
    """A misspelled key is an error, as it is not in the tools themselves."""

    model_config = ConfigDict(extra="forbid")


class HealthCheck(Strict):
    test: list[str] = Field(min_length=2)
    interval: str = Field(pattern=r"^\d+s$")
    timeout: str = Field(pattern=r"^\d+s$")
    retries: int = Field(ge=1)
    start_period: str = Field(pattern=r"^\d+s$")


class Service(Strict):
    image: str = Field(pattern=r"^[a-z]+:[0-9.]+$")
    restart: Literal["unless-stopped"]
    read_only: Literal[True]
    tmpfs: list[str]
    cap_drop: list[Literal["ALL"]] = Field(min_length=1)
    security_opt: list[Literal["no-new-privileges:true"]] = Field(min_length=1)
    entrypoint: list[str]
    command: list[str]
    working_dir: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    ports: list[str] = Field(default_factory=list)
    volumes: list[str] = Field(default_factory=list)
    depends_on: dict[str, dict[str, str]] = Field(default_factory=dict)
    healthcheck: HealthCheck | None = None
    mem_limit: str | None = None


class Compose(BaseModel):
    name: str
    services: dict[str, Service]
    volumes: dict[str, dict[str, str]]


@pytest.fixture
def compose(tree: Path) -> Compose:
    document = yaml.safe_load((tree / "deploy" / "compose.yaml").read_text())
    assert {key for key in document if not key.startswith("x-")} == set(Compose.model_fields)
    return Compose.model_validate(document)


def test_compose_publishes_to_this_machine_only(compose: Compose) -> None:
    ports = [port for service in compose.services.values() for port in service.ports]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_compose_refers_to_what_there_is(compose: Compose, pyproject: dict[str, Any], tree: Path) -> None:
    for service in compose.services.values():
        assert service.image == f"tuneline:{pyproject['project']['version']}"
        for needed, how in service.depends_on.items():
            assert how == {"condition": "service_healthy"}
            assert compose.services[needed].healthcheck is not None
        for volume in service.volumes:
            source = re.sub(r"\$\{[^}]*\}", "/variable", volume).partition(":")[0]
            if source.startswith("./"):
                assert (tree / "deploy" / source).is_file(), source
            elif not source.startswith("/"):
                assert source in compose.volumes, source


def test_the_gateways_command_and_configuration_are_valid(
    compose: Compose, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Registry.open(tmp_path).close()
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path))
    service = compose.services["gateway"]
    assert service.entrypoint == ["tini", "--", "tuneline"]
    assert f"./serve.yaml:{service.command[1]}:ro" in service.volumes
    given = parser().parse_args(
        [*service.command[:1], str(tree / "deploy" / "serve.yaml"), *service.command[2:]]
    )
    reply = serve(Namespace(**{**vars(given), "check": True}))
    assert reply.exit_code == 0
    config = ServeConfig.model_validate(reply.document["config"])
    doors = (config.gateway, config.operations)
    assert {door.host for door in doors} == {"0.0.0.0"}, "published ports come from outside the container"
    assert service.ports == [f"127.0.0.1:{door.port}:{door.port}" for door in doors]
    assert service.healthcheck is not None
    assert f"http://127.0.0.1:{config.operations.port}/readyz" in service.healthcheck.test[-1]
    compile(service.healthcheck.test[-1], "healthcheck", "exec")


def test_the_gateway_and_the_worker_share_a_registry(compose: Compose) -> None:
    gateway, worker = compose.services["gateway"], compose.services["worker"]
    assert gateway.environment["TUNELINE_HOME"] == worker.environment["TUNELINE_HOME"]
    assert "registry:/data" in gateway.volumes
    assert "registry:/data" in worker.volumes


def test_the_worker_serves_the_deployments_pool(compose: Compose) -> None:
    worker = compose.services["worker"]
    pool = worker.command[worker.command.index("--pool") + 1]
    assert pool == POOL
    server = compose.services["prefect"].command
    assert worker.environment["PREFECT_API_URL"] == f"http://prefect:{server[server.index('--port') + 1]}/api"
