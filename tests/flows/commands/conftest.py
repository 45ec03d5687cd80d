"""A command as a person gives it, in a folder of its own, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from registry import Registry

Say = Callable[..., tuple[int, str, str]]
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the registry will be."""
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with Registry.open(home) as opened:
        yield opened


@pytest.fixture
def say(home: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Exit code, standard output and standard error of a command."""

    def command(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(list(words))
        except SystemExit as left:
            code = int(str(left.code))
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def run(say: Say) -> Run:
    """Exit code and JSON document (None where there is none) of a command."""

    def command(*words: str) -> tuple[int, Any]:
        code, out, _ = say(*words, "--json")
        return code, json.loads(out) if out.strip() else None

    return command
