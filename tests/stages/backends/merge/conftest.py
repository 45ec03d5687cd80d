"""A base with an adapter to merge, read-only or to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stages.backends.merge.lora_models import save_adapter, save_llama


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untied float16 Llama and a rank-4 adapter on all linear layers; read-only."""
    folder = tmp_path_factory.mktemp("plain")
    base = save_llama(folder / "base")
    return base, save_adapter(base, folder / "adapter")


@pytest.fixture
def own(plain: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of `plain` that a test may damage."""
    return shutil.copytree(plain[0], tmp_path / "base"), shutil.copytree(plain[1], tmp_path / "adapter")
