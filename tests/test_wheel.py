"""The wheel holds all that the product needs: every package and every data file of the tree."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.deploy.light import normal
from tests.flows.ui.browser import Complaints, chromium
from tests.seconds import seconds
from tests.test_architecture import imported_anywhere

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "registry", "serving", "stages")
EMPTY = """
import os, pathlib, flows.ui.pages, registry
registry.Registry.open(pathlib.Path(os.environ["TUNELINE_HOME"])).close()
print(flows.ui.pages.TEMPLATES)
"""


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


@pytest.fixture
def installed(wheel: zipfile.ZipFile, tmp_path: Path) -> Path:
    """The folder of the commands of an environment that has the wheel, and the locked packages beside it.

    Those are only on the path: none of their .pth files is read, so the tree itself is not found.
    """
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert wheel.filename is not None
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-index", "--force-reinstall", "--no-compile", wheel.filename],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return python.parent


@pytest.fixture
def interface(installed: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What `tuneline ui` of the wheel says when it listens, on a new registry that the wheel makes too."""
    env = {"PATH": os.environ["PATH"], "TUNELINE_HOME": str(tmp_path / "home")}
    made = subprocess.run(
        [installed / "python", "-c", EMPTY], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert Path(made.stdout.strip()).is_relative_to(tmp_path / "venv"), made.stderr
    command = [installed / "tuneline", "ui", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            assert process.wait(seconds(20)) == 0


def test_its_pages_open_in_a_browser(interface: dict[str, str]) -> None:
    """Templates, scripts and styles come from the wheel, and so does the registry's schema."""
    complaints = Complaints()
    with chromium() as browser:
        page = browser.new_page(base_url=interface["url"])
        complaints.listen(page)
        page.goto(interface["link"])
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator(".empty-title")).to_have_text("No channel points anywhere yet")
        assert page.locator(".bar").evaluate("bar => getComputedStyle(bar).position") == "sticky"
        assert page.evaluate("typeof htmx") == "object"
        for path in ("/artifacts", "/schedules", "/webhooks"):
            page.goto(path)
            expect(page.locator(".empty-title")).to_be_visible()
    assert complaints.lines == []


def test_every_library_that_is_imported_is_asked_for() -> None:
    """One that only comes because another package asks for it today is gone the day that it does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = {
        normal(re.split(r"[^\w.-]", text, maxsplit=1)[0])
        for text in [*project["dependencies"], *extras["postgres"], *extras["s3"], *extras["trackers"]]
    }
    makers = importlib.metadata.packages_distributions()
    used = imported_anywhere() - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {"torch", "yaml", "packaging"} <= used
    absent = {"mlflow": ["mlflow-skinny"]}  # not installed for tests, and not called as its module
    by = {name: {normal(maker) for maker in makers.get(name, absent.get(name, [name]))} for name in used}
    assert not {name for name in used if not asked & by[name]}
