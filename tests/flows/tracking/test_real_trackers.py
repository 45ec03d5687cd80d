"""MLflow and W&B themselves, where they are installed: what they hold of a run afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flows.tracking.trackers import PACKAGES, track
from tests.flows.tracking.test_trackers import RECIPE, REPORT

READ_MLFLOW = """
import json, sys
import mlflow
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow/mlflow.db")
client = mlflow.MlflowClient()
place = client.get_experiment_by_name("demo").experiment_id
print(json.dumps([
    {
        "status": run.info.status,
        "name": run.info.run_name,
        "parameters": run.data.params,
        "loss": [[one.step, one.value] for one in client.get_metric_history(run.info.run_id, "train/loss")],
        "scores": run.data.metrics,
        "verdict": run.data.tags["verdict"],
        "files": [file.path for file in client.list_artifacts(run.info.run_id)],
    }
    for run in client.search_runs([place])
]))
"""


def tell(name: str, folder: Path) -> Path:
    """The home in which the tracker keeps the run."""
    if find_spec(name) is None:
        pytest.skip(f"pip install {PACKAGES[name]}")
    (folder / "report.html").write_text("page")
    remarks: list[str] = []
    track([name], folder / "home", REPORT, RECIPE, folder / "report.html", remarks.append)
    assert remarks == []
    return folder / "home"


def test_mlflow_holds_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    tell("mlflow", tmp_path)
    home = tell("mlflow", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ_MLFLOW, str(home)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(found) == 2, "a second run goes into the same experiment"
    for run in found:
        assert (run["status"], run["name"], run["verdict"]) == ("FINISHED", REPORT["run_id"], "pass")
        assert run["parameters"]["train.lora.rank"] == "8"
        assert run["loss"] == [[2, 2.0]]
        assert run["scores"]["tuned NF4 _ adapter/routing exact_match"] == 0.5
        assert run["files"] == ["report.html"]
    assert not (tmp_path / "mlruns").exists()


def test_wandb_stays_offline_whatever_its_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "home").mkdir()
    home = tell("wandb", tmp_path)
    (run,) = (home / "wandb").glob("offline-run-*")
    (file,) = run.glob("run-*.wandb")
    held = file.read_bytes()
    for words in (
        REPORT["run_id"],
        "train/loss",
        "validation/loss",
        "tuned NF4 _ adapter/routing exact_match",
    ):
        assert words.encode() in held
    assert not list((home / "wandb").glob("run-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"home", "report.html"}
