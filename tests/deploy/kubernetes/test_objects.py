"""Kubernetes objects as kustomize renders them: valid by its schemas, names that agree, commands that parse.

No cluster runs them here; test_kube_play.py runs what podman can.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import parser
from serving.engine.naming import model_alias
from serving.gateway.config import ServeConfig
from serving.llama_cpp.server import command_line

pytestmark = pytest.mark.deploy
KUBERNETES = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"
SCHEMAS = ("1.31", "1.34")
"""The oldest and the newest Kubernetes whose schemas the objects are checked against."""
OVERLAYS = ["overlays/cpu", "overlays/gpu", "overlays/ha"]
EVERYTHING = [*OVERLAYS, "engine"]
Objects = dict[tuple[str, str], dict[str, Any]]


@cache
def rendered(name: str) -> Objects:
    """(kind, name) → object, of an overlay; a ConfigMap by the name it has before kustomize's digest."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(KUBERNETES / name)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(done.stdout)}
    raise AssertionError("neither kustomize nor kubectl is on PATH: install one of them (docs/deploy.md)")


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and template of everything that runs."""
    for (kind, name), found in objects.items():
        if kind in ("Deployment", "Job"):
            yield name, found["spec"]["template"]


@pytest.mark.parametrize("version", SCHEMAS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_every_object_is_valid_by_kubernetes_own_schema(name: str, version: str) -> None:
    import kubernetes_validate  # `make test-deploy` installs it

    for found in rendered(name).values():
        kubernetes_validate.validate(found, version, strict=True)


def test_the_schemas_would_find_a_fault() -> None:
    import kubernetes_validate

    broken = json.loads(json.dumps(rendered("overlays/ha")["PodDisruptionBudget", "gateway"]))
    broken["spec"]["maxUnavailible"] = broken["spec"].pop("maxUnavailable")
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailible"):
        kubernetes_validate.validate(broken, SCHEMAS[0], strict=True)


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_object_is_of_this_version_and_in_the_namespace(name: str, pyproject: dict[str, Any]) -> None:
    objects = rendered(name)
    assert {found["metadata"]["namespace"] for found in objects.values()} == {"tuneline"}
    images = {container["image"] for _, pod in pods(objects) for container in pod["spec"]["containers"]}
    version = pyproject["project"]["version"]
    assert images <= {f"tuneline:{version}", f"tuneline-gpu:{version}"}
    assert (f"tuneline-gpu:{version}" in images) == (name == "overlays/gpu")


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_pod_is_closed_and_limited(name: str, dockerfile: list[tuple[str, str]]) -> None:
    user, folders = dict(dockerfile)["USER"], [rest for word, rest in dockerfile if word == "WORKDIR"]
    for _, pod in pods(rendered(name)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["command"][:2] == ["tini", "--"]
        assert container["workingDir"] in folders
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_a_pod_mounts_and_reads_is_there(name: str) -> None:
    objects = rendered(name)
    for _, pod in pods(objects):
        spec = pod["spec"]
        (container,) = spec["containers"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in objects
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in objects
        assert container.get("envFrom", []) in ([], [{"secretRef": {"name": "registry"}}])


@pytest.mark.parametrize("name", EVERYTHING)
def test_probes_ask_a_port_that_is_open_and_give_time_to_start(name: str) -> None:
    for (kind, _), found in rendered(name).items():
        if kind == "Deployment":
            (container,) = found["spec"]["template"]["spec"]["containers"]
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["port"] in ports
            start = container["startupProbe"]
            assert start["periodSeconds"] * start["failureThreshold"] >= 120


@pytest.mark.parametrize("name", EVERYTHING)
def test_selectors_select_a_pod_and_ports_are_its(name: str) -> None:
    objects = rendered(name)
    templates = [(pod["metadata"]["labels"], pod["spec"]["containers"][0]) for _, pod in pods(objects)]
    for (kind, called), found in objects.items():
        spec = found.get("spec", {})
        if kind == "Service":
            selector, asked = spec["selector"], {port["targetPort"] for port in spec["ports"]}
        elif kind == "NetworkPolicy" and called != "nothing-else":
            selector = spec["podSelector"]["matchLabels"]
            asked = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
        elif kind in ("Deployment", "PodDisruptionBudget"):
            selector, asked = spec["selector"]["matchLabels"], set()
        else:
            continue
        chosen = [container for labels, container in templates if selector.items() <= labels.items()]
        assert chosen, (kind, called)
        for container in chosen if asked else []:
            assert asked <= {port["name"] for port in container["ports"]}, (kind, called)


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_is_reached_that_no_policy_names(name: str) -> None:
    objects = rendered(name)
    whole = objects["NetworkPolicy", "nothing-else"]["spec"]
    assert whole == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for _, pod in pods(objects):
        assert pod["metadata"]["labels"]["tuneline/registry"] == "true", "each reads the registry"


def test_the_engine_reaches_nothing() -> None:
    policy = rendered("engine")["NetworkPolicy", "engine"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy, "nothing is listed, so nothing is reached"


def test_the_engines_command_parses() -> None:
    template = rendered("engine")["Deployment", "engine"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["tini", "--", "python", "-m", "serving.llama_cpp.server"]
    args = command_line().parse_args(container["args"])
    assert [port["containerPort"] for port in container["ports"]] == [args.port]
    assert args.host == "0.0.0.0", "probes and the service come from outside the container"
    assert str(args.threads) == container["resources"]["limits"]["cpu"]
    artifact = template["metadata"]["annotations"]["tuneline/artifact"]
    assert str(args.model) == f"/models/{artifact}/model.gguf"
    assert args.alias == model_alias(artifact)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_gateways_configuration_is_valid(name: str) -> None:
    objects = rendered(name)
    spec = objects["Deployment", "gateway"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (text,) = [found["data"]["serve.yaml"] for (kind, _), found in objects.items() if kind == "ConfigMap"]
    config = ServeConfig.model_validate(yaml.safe_load(text))
    assert {engine.engine for engine in config.engines} == {"vllm" if name == "overlays/gpu" else "llama.cpp"}
    assert parser().parse_args(container["args"]).config == Path("/etc/tuneline/serve.yaml")
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/etc/tuneline", "/data", "/tmp"}
    assert [port["containerPort"] for port in container["ports"]] == [
        config.gateway.port,
        config.operations.port,
    ]
    assert {config.gateway.host, config.operations.host} == {"0.0.0.0"}
    assert spec["terminationGracePeriodSeconds"] > config.grace_seconds


def test_the_other_commands_parse() -> None:
    objects = rendered("overlays/cpu")
    for kind, name, port in (("Deployment", "metrics", 9091), ("Job", "migrate", None)):
        (container,) = objects[kind, name]["spec"]["template"]["spec"]["containers"]
        given = parser().parse_args(container["args"])
        assert container["command"] == ["tini", "--", "tuneline"]
        assert port is None or (given.port, container["ports"][0]["containerPort"]) == (port, port)


def test_highly_available_gateways_are_several_and_on_several_nodes() -> None:
    objects = rendered("overlays/ha")
    gateway = objects["Deployment", "gateway"]["spec"]
    assert "replicas" not in gateway, "each `kubectl apply` would undo what the autoscaler did"
    scaler = objects["HorizontalPodAutoscaler", "gateway"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gateway"}
    budget = objects["PodDisruptionBudget", "gateway"]["spec"]
    assert scaler["minReplicas"] > budget["maxUnavailable"] + 1, "two answer while a node is drained"
    labels = gateway["template"]["metadata"]["labels"]
    for constraint in gateway["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()


def test_a_gpu_is_asked_for_and_not_held_twice() -> None:
    gateway = rendered("overlays/gpu")["Deployment", "gateway"]["spec"]
    assert gateway["strategy"] == {"type": "Recreate"}
    (container,) = gateway["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
