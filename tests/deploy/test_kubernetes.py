"""Kubernetes objects: known keys, names that agree, commands that parse; no cluster runs them here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from flows.cli import parser
from serving.engine.naming import model_alias
from serving.gateway.config import ServeConfig
from serving.llama_cpp.server import command_line

KUBERNETES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"


class Strict(BaseModel):
    """A misspelled key is an error, as it is not in the tools themselves."""

    model_config = ConfigDict(extra="forbid")


class Get(Strict):
    path: Literal["/health", "/healthz", "/readyz"]
    port: str


class Probe(Strict):
    httpGet: Get
    periodSeconds: int = Field(ge=1)
    timeoutSeconds: int = Field(default=1, ge=1)
    failureThreshold: int = Field(default=3, ge=1)


class Amounts(Strict):
    cpu: str = Field(pattern=r"^\d+m?$")
    memory: str = Field(pattern=r"^\d+[MG]i$")


class Resources(Strict):
    requests: Amounts
    limits: Amounts


class Dropped(Strict):
    drop: list[Literal["ALL"]] = Field(min_length=1)


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    readOnlyRootFilesystem: Literal[True]
    capabilities: Dropped


class Port(Strict):
    name: str
    containerPort: int = Field(ge=1024, le=65535)


class Mount(Strict):
    name: str
    mountPath: str = Field(pattern="^/")
    readOnly: bool = False


class SecretRef(Strict):
    name: str


class EnvFrom(Strict):
    secretRef: SecretRef


class Container(Strict):
    name: str
    envFrom: list[EnvFrom] = Field(default_factory=list)
    image: str
    command: list[str]
    args: list[str]
    workingDir: str
    ports: list[Port]
    startupProbe: Probe
    readinessProbe: Probe
    livenessProbe: Probe
    resources: Resources
    securityContext: ContainerSecurity
    volumeMounts: list[Mount]


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: int = Field(ge=1000)
    runAsGroup: int = Field(ge=1000)
    fsGroup: int = Field(ge=1000)
    seccompProfile: Seccomp


class Claim(Strict):
    claimName: str
    readOnly: bool = False


class EmptyDir(Strict):
    sizeLimit: str = Field(pattern=r"^\d+[MG]i$")


class Config(Strict):
    name: str


class Volume(Strict):
    name: str
    configMap: Config | None = None
    persistentVolumeClaim: Claim | None = None
    emptyDir: EmptyDir | None = None


class PodSpec(Strict):
    automountServiceAccountToken: Literal[False]
    terminationGracePeriodSeconds: int
    securityContext: PodSecurity
    containers: list[Container] = Field(min_length=1, max_length=1)
    volumes: list[Volume]


def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) → object, over the files that the kustomization lists."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert set(listed) == {p.name for p in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    found = [o for name in listed for o in yaml.safe_load_all((KUBERNETES / name).read_text())]
    return {(o["kind"], o["metadata"]["name"]): o for o in found}


def pod_of(name: str) -> PodSpec:
    return PodSpec.model_validate(objects()["Deployment", name]["spec"]["template"]["spec"])


@pytest.fixture(params=["engine", "gateway"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pod(name: str) -> PodSpec:
    return pod_of(name)


def test_every_object_is_of_a_current_api() -> None:
    assert {(o["apiVersion"], o["kind"]) for o in objects().values()} == {
        ("apps/v1", "Deployment"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    }
    for (kind, _), one in objects().items():
        assert set(one) == {"apiVersion", "kind", "metadata", "data" if kind == "ConfigMap" else "spec"}


def test_kubernetes_engine_command_parses() -> None:
    container = pod_of("engine").containers[0]
    assert container.command == ["tini", "--", "python", "-m", "serving.llama_cpp.server"]
    args = command_line().parse_args(container.args)
    assert [p.containerPort for p in container.ports] == [args.port]
    assert args.host == "0.0.0.0", "probes and the service come from outside the container"
    assert str(args.threads) == container.resources.limits.cpu
    artifact = objects()["Deployment", "engine"]["spec"]["template"]["metadata"]["annotations"][
        "tuneline/artifact"
    ]
    assert str(args.model) == f"/models/{artifact}/model.gguf"
    assert args.alias == model_alias(artifact)


def test_probes_ask_a_port_that_is_open(pod: PodSpec) -> None:
    container = pod.containers[0]
    for probe in (container.startupProbe, container.readinessProbe, container.livenessProbe):
        assert probe.httpGet.port in {p.name for p in container.ports}
    assert container.startupProbe.periodSeconds * container.startupProbe.failureThreshold >= 120


def test_mounts_have_volumes_and_claims_exist(pod: PodSpec) -> None:
    volumes = {v.name: v for v in pod.volumes}
    assert {m.name for m in pod.containers[0].volumeMounts} == set(volumes)
    for volume in volumes.values():
        kinds = (volume.persistentVolumeClaim, volume.emptyDir, volume.configMap)
        assert sum(kind is not None for kind in kinds) == 1
        if volume.configMap:
            assert ("ConfigMap", volume.configMap.name) in objects()
        if volume.persistentVolumeClaim:
            assert ("PersistentVolumeClaim", volume.persistentVolumeClaim.claimName) in objects()


def test_the_pods_user_is_the_images(pod: PodSpec, dockerfile: list[tuple[str, str]]) -> None:
    user = dict(dockerfile)["USER"]
    assert f"{pod.securityContext.runAsUser}:{pod.securityContext.runAsGroup}" == user
    assert pod.containers[0].workingDir in [rest for name, rest in dockerfile if name == "WORKDIR"]


def test_selectors_select_the_pod(pod: PodSpec, name: str) -> None:
    deployment = objects()["Deployment", name]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    ports = {p.name for p in pod.containers[0].ports}
    service, policy = objects()["Service", name]["spec"], objects()["NetworkPolicy", name]["spec"]
    assert (
        deployment["selector"]["matchLabels"]
        == service["selector"]
        == policy["podSelector"]["matchLabels"]
        == labels
    )
    assert {p["targetPort"] for p in service["ports"]} <= ports
    assert {p["port"] for rule in policy["ingress"] for p in rule["ports"]} <= ports
    assert "Ingress" in policy["policyTypes"]


def test_the_engine_reaches_nothing() -> None:
    policy = objects()["NetworkPolicy", "engine"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy, "nothing is listed, so nothing is reached"


def test_the_gateways_configuration_is_valid() -> None:
    container = pod_of("gateway").containers[0]
    config = ServeConfig.model_validate(
        yaml.safe_load(objects()["ConfigMap", "gateway"]["data"]["serve.yaml"])
    )
    assert parser().parse_args(container.args).config == Path("/etc/tuneline/serve.yaml")
    assert {m.mountPath for m in container.volumeMounts} >= {"/etc/tuneline", "/data", "/tmp"}
    assert [p.containerPort for p in container.ports] == [config.gateway.port, config.operations.port]
    assert {config.gateway.host, config.operations.host} == {"0.0.0.0"}
    assert pod_of("gateway").terminationGracePeriodSeconds > config.grace_seconds


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_the_projects_version(pyproject: dict[str, Any]) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=True
    )
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {(o["kind"], o["metadata"]["name"]) for o in rendered} == set(objects())
    pods = [o["spec"]["template"]["spec"] for o in rendered if o["kind"] == "Deployment"]
    assert {pod["containers"][0]["image"] for pod in pods} == {f"tuneline:{pyproject['project']['version']}"}
    assert {o["metadata"]["namespace"] for o in rendered} == {"tuneline"}
