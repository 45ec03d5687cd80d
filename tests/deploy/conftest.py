"""What several manifests have to agree on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tree() -> Path:
    return TREE


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((TREE / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def dockerfile() -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments), with comments dropped and continued lines joined."""
    lines = (TREE / "deploy" / "Dockerfile").read_text().splitlines()
    joined = re.sub(r"\\\s*\n", " ", "\n".join(li for li in lines if not li.lstrip().startswith("#")))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, _, rest in found]


@pytest.fixture(scope="session")
def image(pyproject: dict[str, Any]) -> str:
    """The image's name, built as `make image` builds it; podman keeps its layers for the next time."""
    assert shutil.which("podman"), "podman is not installed: apt-get install podman runc (docs/deploy.md)"
    done = subprocess.run(["make", "image"], cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return f"localhost/tuneline:{pyproject['project']['version']}"


@pytest.fixture(scope="session")
def pico_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose channel `pico/tenant` points to an adapter over a 2-layer base."""
    home = tmp_path_factory.mktemp("pico") / "home"
    run = [sys.executable, "-m", "flows.cli", "run", "pico-tenant", "--json"]
    subprocess.run(
        run, env={**os.environ, "TUNELINE_HOME": str(home)}, cwd=TREE, check=True, capture_output=True
    )
    return home
