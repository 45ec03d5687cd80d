"""The wheel holds all that the product needs: every package and every data file of the tree."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.deploy.light import normal
from tests.test_architecture import imported_anywhere

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "registry", "serving", "stages")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that nothing left in the tree's own build folder gets in."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES, "pyproject.toml",
         "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(copy)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    assert built.name.endswith("-py3-none-any.whl")
    return zipfile.ZipFile(built)


def test_every_file_of_the_tree_is_in_it(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    wanted = {name for name in listed if (ROOT / name).is_file()}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {"flows/templates/report.html.j2", "flows/recipes/pico-smoke.yaml"} <= held
    assert held == wanted, "list packages and data files in pyproject.toml, [tool.setuptools]"


def test_its_description_names_the_command_and_the_pythons(wheel: zipfile.ZipFile) -> None:
    (points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "tuneline = flows.cli:main" in wheel.read(points).decode()
    (metadata,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    assert "Requires-Python: <3.14,>=3.11" in wheel.read(metadata).decode()


def test_every_library_that_is_imported_is_asked_for() -> None:
    """One that only comes because another package asks for it today is gone the day that it does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = {
        normal(re.split(r"[^\w.-]", text, maxsplit=1)[0])
        for text in [*project["dependencies"], *extras["postgres"], *extras["s3"]]
    }
    makers = importlib.metadata.packages_distributions()
    used = imported_anywhere() - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {"torch", "yaml", "packaging"} <= used
    assert not {name for name in used if not asked & {normal(maker) for maker in makers.get(name, [name])}}
