"""One piece at a time, on plain directories, as somebody who brings an adapter of their own does it."""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Tuneline
from tests.seconds import seconds

Pico = tuple[Tuneline, dict[str, Any]]


@pytest.fixture(scope="module")
def foreign(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pico run's base, dataset and adapter as directories without any record of Tuneline's."""
    tuneline, document = pico
    folder = tmp_path_factory.mktemp("foreign")
    rows = {row["stage"]: row["artifact_id"] for row in document["stages"] if row["stage"] != "evaluate"}
    made = {}
    for role, stage in (
        ("base", "resolve"),
        ("dataset", "prepare"),
        ("adapter", "train"),
        ("merged", "merge"),
    ):
        source = tuneline.json("artifacts", "show", rows[stage])["path"]
        made[role] = Path(shutil.copytree(source, folder / role))
    (made["adapter"] / "tuneline.json").unlink()
    return made


@pytest.fixture(scope="module")
def merged(pico: Pico, foreign: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "merged"
    done = pico[0](
        "merge", "--base", str(foreign["base"]), "--adapter", str(foreign["adapter"]), "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"merge: merged in {out}, made in ")
    assert "million parameters" in done.stdout
    assert f"quantize --model {out} --out NEW" in done.stdout
    return out


def test_merge_equals_the_merge_of_a_run(merged: Path, foreign: dict[str, Path]) -> None:
    name = "model.safetensors"
    assert filecmp.cmp(merged / name, foreign["merged"] / name, shallow=False)


def test_quantize_then_evaluate(pico: Pico, merged: Path, foreign: dict[str, Path]) -> None:
    quantized, scores = merged.parent / "q8", merged.parent / "scores"
    made = pico[0].json(
        "quantize",
        "--model",
        str(merged),
        "--out",
        str(quantized),
        "--set",
        "method=gguf",
        "--set",
        "type=Q8_0",
    )
    assert made["facts"]["quant"]["effective"]["bits_per_weight"] == pytest.approx(8.5, abs=0.1)
    measured = pico[0].json(
        "evaluate", "--model", str(quantized / "model.gguf"), "--base", str(foreign["base"]),
        "--dataset", str(foreign["dataset"]), "--out", str(scores),
    )  # fmt: skip
    assert measured["exit_code"] == 0
    results = json.loads((scores / "results.json").read_text())
    assert results["tasks"]
    logged = (scores / "samples_heldout.jsonl").read_text().count("\n")
    assert logged == measured["facts"]["metrics"]["tasks"]["heldout"]["exact_match"]["n"]


def test_prepare_reads_a_file_at_a_path_from_where_the_command_runs(
    foreign: dict[str, Path], tmp_path: Path
) -> None:
    rows = ({"prompt": f"Question {i}?", "completion": f"Answer {i * i}."} for i in range(40))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "base").symlink_to(foreign["base"])
    done = subprocess.run(
        [Path(sys.executable).with_name("tuneline"), "prepare", "--base", "base", "--out", "sub/prepared",
         "--set", "source=path:mine.jsonl", "--set", "near_duplicates=null", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=seconds(120),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["metrics"]["rows"]["accepted"] == 40
    made = {path.name for path in (tmp_path / "sub/prepared").iterdir()}
    assert {"train.parquet", "validation.parquet", "test.parquet"} <= made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base", "nowhere", "--adapter", "{adapter}", "--out", "{out}"], "--base"),
        (["--base", "{base}", "--adapter", "{base}", "--out", "{out}"], "adapter"),
        (["--base", "{base}", "--adapter", "{adapter}", "--out", "{base}"], "exists already"),
        (
            ["--base", "{base}", "--adapter", "{adapter}", "--out", "{out}", "--set", "dtpye=float16"],
            "'dtype'",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    pico: Pico, foreign: dict[str, Path], tmp_path: Path, arguments: list[str], said: str
) -> None:
    out = tmp_path / "out"
    places = {**{role: str(path) for role, path in foreign.items()}, "out": str(out)}
    done = pico[0]("merge", *(word.format(**places) for word in arguments))
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert not any(tmp_path.iterdir())
