"""What several manifests have to agree on."""

from __future__ import annotations

import re
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
