"""The light installation: requirements-gate.lock and the wheel, without its dependencies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from registry import Registry
from tests.deploy import light
from tests.flows.evaluation_files import BAD, GOOD, POLICY, Lineage

HEAVY = {"torch", "transformers", "prefect", "pyarrow", "llama-cpp-python", "datasets"}


def test_the_lock_is_a_part_of_the_whole_one_and_complete() -> None:
    gate, whole = light.versions(light.GATE), light.versions(light.WHOLE)
    assert {name: whole.get(name) for name in gate} == gate
    assert not light.missing()
    assert not HEAVY & set(gate)


def test_the_whole_lock_has_what_pyproject_asks_for_and_the_extras_of_that() -> None:
    """Else an image, which takes its packages from there, has versions that nothing was tested with."""
    project = tomllib.loads((light.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = light.wanted([*project["dependencies"], *extras["postgres"], *extras["s3"]])
    assert "jsonschema" in asked
    held = light.versions(light.WHOLE).keys()
    assert asked - held <= {"pip", "setuptools"}  # which `pip freeze` leaves out


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the lock, and no other, as links into this environment."""
    folder = tmp_path_factory.mktemp("light")
    for name in (*light.versions(light.GATE), "tuneline"):
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
        for top in tops - {"__pycache__", "bin"}:
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def tuneline(packages: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-m", "flows.cli", *arguments], cwd=home,
        env={"PATH": os.environ["PATH"], "TUNELINE_HOME": str(home / "home"),
             "PYTHONPATH": f"{light.ROOT}:{packages}"},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Lineage]]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    with Registry.open(folder / "home") as registry:
        made = Lineage(registry)
        for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
            made.evaluate(model, scores)
        yield folder, made


def test_it_gates_and_promotes(packages: Path, place: tuple[Path, Lineage]) -> None:
    folder, made = place
    gated = tuneline(
        packages, folder, "gate", "policy.yaml", "--candidate", made.gguf.id, "--baseline", made.base.id,
        "--channel", "a/prod", "--junit", "junit.xml", "--markdown", "summary.md", "--json",
    )  # fmt: skip
    assert gated.returncode == 0, gated.stderr
    said = json.loads(gated.stdout)
    assert said["verdict"] == "pass"
    assert (folder / "junit.xml").is_file()
    moved = tuneline(packages, folder, "promote", made.gguf.id, "a/prod", "--decision", said["id"])
    assert moved.returncode == 0, moved.stderr


def test_a_command_that_needs_more_says_what_is_missing(packages: Path, place: tuple[Path, Lineage]) -> None:
    done = tuneline(packages, place[0], "run", "pico-smoke")
    assert done.returncode == 3
    assert "light installation" in done.stderr
    for word in ("Traceback", "defect", "fetching"):
        assert word not in done.stderr


def test_doctor_looks_at_what_a_gate_rests_on(packages: Path, place: tuple[Path, Lineage]) -> None:
    done = tuneline(packages, place[0], "doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = {one["subject"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["packages"]["state"] == "warn"
    assert "light installation" in found["packages"]["found"]
    assert found["registry"]["state"] == found["store"]["state"] == "ok"
    assert not {"arithmetic", "prefect", "vllm"} & found.keys()
