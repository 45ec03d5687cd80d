"""The same work gives the same ids, whoever does it and wherever."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.seconds import seconds

HERE = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "USER": "ann-of-here", "PYTHONHASHSEED": "1"}
THERE = {"LC_ALL": "C", "TZ": "Asia/Kathmandu", "USER": "bob-of-there", "PYTHONHASHSEED": "2"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders in which every stage was run, each with its own home, mask, language and time zone."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there") / "a folder" / "für alles"
    runs = []
    for folder, variables, mask in ((here, HERE, 0o022), (there, THERE, 0o077)):
        (folder / "user").mkdir(parents=True)
        with (folder / "rows.jsonl").open("w") as rows:
            for n in range(60):
                row = {
                    "prompt": f"Where is box {n} of house {n * n}?",
                    "completion": ["hall", "attic"][n % 2],
                }
                rows.write(json.dumps({**row, "id": n}) + "\n")
        runs.append(subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.every_stage", str(folder)], cwd=ROOT, umask=mask,
            env={**os.environ, **variables, "HOME": str(folder / "user"), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ))  # fmt: skip
    for run in runs:
        said, _ = run.communicate(timeout=seconds(300))
        assert run.returncode == 0, said[-3000:]
    return here, there


def test_every_stage_gives_the_same_ids(places: tuple[Path, Path]) -> None:
    here, there = (json.loads((place / "ids.json").read_text()) for place in places)
    assert list(here) == [
        "base", "dataset", "adapter", "score of the adapter", "merged", "gptq", "gguf", "score of the gguf",
    ]  # fmt: skip
    assert here == there


def test_no_file_of_an_artifact_names_a_place_a_host_or_a_user(places: tuple[Path, Path]) -> None:
    for place, variables in zip(places, (HERE, THERE), strict=True):
        words = {str(place), place.parent.name, str(Path.cwd()), variables["USER"], platform.node()}
        words |= {getpass.getuser()} - {"root"}  # a word that also stands in tokenizers
        files = [file for file in (place / "home" / "blobs").rglob("*") if file.is_file()]
        assert len(files) > 20
        for file in files:
            content = file.read_bytes()
            assert not [word for word in words if len(word) > 5 and word.encode() in content], file
