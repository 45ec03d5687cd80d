"""Directories of processes that were killed go; those of the living stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.process.runtime_dir import RuntimeDir

TREE = Path(__file__).resolve().parents[3]
HOLD = (
    "from serving.process.runtime_dir import RuntimeDir as D; one = D(); print(one.path, flush=True); input()"
)


def test_what_a_killed_process_left_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tuneline-without-a-lock").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        mine = RuntimeDir()
        assert mine.path.stat().st_mode & 0o777 == 0o700
        assert theirs.is_dir(), "its process lives"
        other.kill()
    RuntimeDir().remove()
    assert not theirs.exists()
    assert mine.path.is_dir()
    assert (tmp_path / "tuneline-without-a-lock").is_dir()
    mine.remove()
    assert not mine.path.exists()
