"""The CI files: their structure, and the commands in them run against a real registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from registry import Registry
from tests.flows.commands.gates.junit import check_junit
from tests.flows.evaluation_files import BAD, GOOD, POLICY, Lineage
from tests.seconds import seconds

CI = Path(__file__).resolve().parents[2] / "deploy" / "ci"


@pytest.fixture(scope="module")
def github() -> dict[Any, Any]:
    return yaml.safe_load((CI / "github-gate.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def gitlab() -> dict[str, Any]:
    return yaml.safe_load((CI / "gitlab-gate.yml").read_text("utf-8"))[".tuneline-gate"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, Lineage]]:
    """A checkout with a policy, and a registry with a candidate that passes it."""
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    with Registry.open(tmp_path / "home") as registry:
        made = Lineage(registry)
        for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
            made.evaluate(model, scores)
        yield tmp_path, made


def run(script: str, place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A step as a runner runs it: `bash -e`, in the checkout, with these variables."""
    known = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(place),
        "TUNELINE_HOME": str(place / "home"), "GITHUB_STEP_SUMMARY": str(place / "summary"),
        "GITHUB_OUTPUT": str(place / "output"), "GITHUB_ENV": str(place / "env"), "RUNNER_TEMP": str(place),
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=place, env={**known, **variables},
        capture_output=True, text=True, timeout=seconds(120),
    )  # fmt: skip


def steps(github: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    return {step.get("name", step.get("uses")): step for step in github["jobs"]["gate"]["steps"]}


def test_the_workflow_can_be_called(github: dict[Any, Any]) -> None:
    call = github[True]["workflow_call"]  # YAML 1.1 reads the key `on` as true
    assert {"policy", "candidate", "channel", "baseline"} <= call["inputs"].keys()
    for given in call["inputs"].values():
        assert given["type"] in {"string", "boolean"}
        assert given["description"]
        assert given.get("required") or "default" in given
    assert github["permissions"] == {"contents": "read"}
    for output in call["outputs"].values():
        assert re.fullmatch(r"\$\{\{ jobs\.gate\.outputs\.\w+ \}\}", output["value"])


def test_actions_are_pinned_and_inputs_never_become_shell(github: dict[Any, Any]) -> None:
    for step in github["jobs"]["gate"]["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        elif step["name"] != "Install":  # which is a command that the caller gives on purpose
            assert "${{" not in step["run"], "an input in a script could carry commands"


@pytest.mark.parametrize(("scores", "code", "verdict"), [(GOOD, 0, "pass"), (BAD, 1, "fail")])
def test_the_workflows_steps_gate_and_promote(
    github: dict[Any, Any], place: tuple[Path, Lineage], scores: list[float], code: int, verdict: str
) -> None:
    folder, made = place
    model = made.quantized("Q6_K")
    made.evaluate(model, scores)
    given = {"POLICY": "policy.yaml", "CANDIDATE": model.id, "CHANNEL": "team/prod", "BASELINE": "",
             "TUNELINE_DATABASE_URL": "", "TUNELINE_STORE_URL": ""}  # fmt: skip
    done = run(steps(github)["Gate"]["run"], folder, **given)
    assert done.returncode == code, done.stderr
    output = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    assert output["verdict"] == verdict
    assert "## Gate" in (folder / "summary").read_text()
    check_junit(ElementTree.parse(folder / "gate" / "junit.xml").getroot())
    if code == 0:
        done = run(steps(github)["Promote"]["run"], folder, **given, DECISION=output["decision"])
        assert done.returncode == 0, done.stderr
        current = made.registry.channels.get("team/prod")
        assert current is not None
        assert current.artifact_id == model.id


def test_a_policy_that_is_not_there_is_told_as_invalid(
    github: dict[Any, Any], place: tuple[Path, Lineage]
) -> None:
    folder, made = place
    done = run(steps(github)["Gate"]["run"], folder, POLICY="none.yaml", CANDIDATE=made.gguf.id,
               CHANNEL="team/prod", BASELINE="", TUNELINE_DATABASE_URL="", TUNELINE_STORE_URL="")  # fmt: skip
    assert done.returncode == 3
    assert "verdict=invalid" in (folder / "output").read_text()
    assert "'none.yaml' is neither a YAML file nor a channel with a policy" in done.stderr


def test_the_signing_key_reaches_the_gate_and_nobody_else(
    github: dict[Any, Any], place: tuple[Path, Lineage]
) -> None:
    folder, _ = place
    script = steps(github)["Signing key"]["run"]
    assert run(script, folder, PEM="").returncode == 0
    assert not (folder / "env").exists()
    assert run(script, folder, PEM="-----BEGIN\nkey").returncode == 0
    assert (folder / "signing.pem").read_text() == "-----BEGIN\nkey\n"
    assert (folder / "signing.pem").stat().st_mode & 0o077 == 0
    assert (folder / "env").read_text() == f"TUNELINE_SIGNING_KEY={folder}/signing.pem\n"


@pytest.mark.parametrize(("n", "code"), [(100, 0), (10, 2)])
def test_the_gitlab_job_gates(gitlab: dict[str, Any], place: tuple[Path, Lineage], n: int, code: int) -> None:
    folder, made = place
    for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
        made.evaluate(model, (scores * 1)[-n:] if n < 100 else scores, seed=7)
    done = run("\n".join(gitlab["script"]), folder, POLICY="policy.yaml", CANDIDATE=made.gguf.id,
               CHANNEL="team/prod", BASELINE="")  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    assert gitlab["allow_failure"]["exit_codes"] == [2]
    assert gitlab["artifacts"]["reports"]["junit"] == "gate/junit.xml"
    check_junit(ElementTree.parse(folder / "gate" / "junit.xml").getroot())
