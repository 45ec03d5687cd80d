"""MLflow and W&B: what they are told of a run, and that whatever goes wrong there ends no run."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from flows.errors import Usage
from flows.settings import Settings
from flows.tracking import trackers
from flows.tracking.figures import failed, labels, parameters, points, summary
from flows.tracking.trackers import missing, track

REPORT: dict[str, Any] = {
    "run_id": "20261130-180000-abcdef",
    "recipe": "demo",
    "seconds": 12.5,
    "stages": [
        {"label": "train adapter", "state": "ran", "artifact_id": "a" * 64},
        {"label": "gate", "state": "ran", "artifact_id": None},
    ],
    "models": [
        {
            "label": "tuned NF4 + adapter",
            "scores": {"routing exact_match": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 99}},
        }
    ],
    "history": [
        {"step": 2, "loss": 2.0, "learning_rate": 1e-4, "tokens": 7},
        {"step": 1, "loss": float("nan"), "learning_rate": 1e-4, "tokens": 3},
        {"step": 2, "validation_loss": 2.5},
    ],
    "gate": {"verdict": "pass"},
}
RECIPE = {"name": "demo", "train": {"epochs": 1.0, "lora": {"rank": 8}}, "quantize": [{"type": "Q8_0"}]}
MLFLOW = """
    import json, os
    from types import SimpleNamespace

    calls = []

    def note(name):
        def call(*arguments, **named):
            calls.append([name, arguments, named])
        return call

    set_tracking_uri = note("set_tracking_uri")

    class MlflowClient:
        def __init__(self):
            for name in ("log_batch", "log_artifact"):
                setattr(self, name, note(name))

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name, place):
            calls.append(["create_experiment", [name, place], {}])
            return "7"

        def create_run(self, *arguments, **named):
            calls.append(["create_run", arguments, named])
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def set_terminated(self, *arguments):
            calls.append(["set_terminated", arguments, {}])
            with open(os.environ["CALLS"], "w") as file:
                json.dump(calls, file)
"""
ENTITIES = """
    def Metric(key, value, timestamp, step):
        return ["metric", key, value, step]

    def Param(key, value):
        return ["param", key, value]
"""
WANDB = """
    import json, os

    calls = []

    class Run:
        class summary:
            @staticmethod
            def update(values):
                calls.append(["summary", values])

        def log(self, values, step):
            calls.append(["log", values, step])

        def finish(self, exit_code):
            calls.append(["finish", exit_code])
            with open(os.environ["CALLS"], "w") as file:
                json.dump(calls, file)

    def init(**named):
        calls.append(["init", named])
        return Run()
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls that a tracker's library got; `remarks`: what was said beside it."""
    libraries, calls = tmp_path / "libraries", tmp_path / "calls.json"
    (libraries / "mlflow").mkdir(parents=True)
    (libraries / "mlflow" / "__init__.py").write_text(textwrap.dedent(MLFLOW))
    (libraries / "mlflow" / "entities.py").write_text(textwrap.dedent(ENTITIES))
    (libraries / "wandb.py").write_text(textwrap.dedent(WANDB))
    path = os.pathsep.join([str(libraries), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "report.html").write_text("page")

    def tell(name: str, remarks: list[str]) -> Any:
        track([name], tmp_path / "home", REPORT, RECIPE, tmp_path / "report.html", remarks.append)
        return json.loads(calls.read_text()) if calls.exists() else None

    return tell


def test_mlflow_has_the_run(told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remarks: list[str] = []
    calls = told("mlflow", remarks)
    assert remarks == []
    named = {name: arguments for name, arguments, _ in calls}
    assert named["set_tracking_uri"] == [f"sqlite:///{tmp_path / 'home' / 'mlflow' / 'mlflow.db'}"]
    assert named["create_experiment"] == ["demo", (tmp_path / "home" / "mlflow" / "artifacts").as_uri()]
    created = next(settings for name, _, settings in calls if name == "create_run")
    assert created["run_name"] == REPORT["run_id"]
    assert created["tags"]["verdict"] == "pass"
    batches = [settings for name, _, settings in calls if name == "log_batch"]
    sent = [one for batch in batches for one in batch.get("params", []) + batch.get("metrics", [])]
    assert ["param", "train.lora.rank", "8"] in sent
    assert ["metric", "train/loss", 2.0, 2] in sent
    assert ["metric", "tuned NF4 _ adapter/routing exact_match", 0.5, 0] in sent
    assert named["log_artifact"] == ["r", str(tmp_path / "report.html")]
    assert named["set_terminated"] == ["r", "FINISHED"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    again = {name for name, _, _ in told("mlflow", remarks)}
    assert "set_tracking_uri" not in again, "a server that the user names is the one"


def test_wandb_has_the_run_offline(told: Any, tmp_path: Path) -> None:
    remarks: list[str] = []
    (init, settings), *rest = told("wandb", remarks)
    assert (init, remarks) == ("init", [])
    assert (settings["mode"], settings["dir"]) == ("offline", str(tmp_path / "home"))
    assert (settings["project"], settings["name"]) == ("demo", REPORT["run_id"])
    assert settings["config"]["train"]["lora"]["rank"] == 8
    assert [call for call in rest if call[0] == "log"] == [
        ["log", {"train/learning_rate": 1e-4}, 1],
        ["log", {"train/loss": 2.0, "train/learning_rate": 1e-4, "validation/loss": 2.5}, 2],
    ]
    assert rest[-1] == ["finish", 0]


def test_what_goes_wrong_is_a_remark(told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = "import os; raise RuntimeError('nobody within ' + os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'])"
    (tmp_path / "libraries" / "wandb.py").write_text(failing)
    remarks: list[str] = []
    assert told("wandb", remarks) is None
    (remark,) = remarks
    why = f"RuntimeError: nobody within 10; all of it is in {tmp_path}"
    assert remark == f"wandb does not have run {REPORT['run_id']}: {why}"
    monkeypatch.setattr(trackers, "SECONDS", 0.0)
    told("mlflow", remarks)
    assert "it did not answer within 0 s" in remarks[-1]


def test_what_is_told_of_a_run() -> None:
    assert parameters(RECIPE) == {
        "name": "demo", "train.epochs": "1.0", "train.lora.rank": "8", "quantize.0.type": "Q8_0",
    }  # fmt: skip
    assert parameters(None) == {}
    assert parameters({"a": "x" * 600})["a"] == "x" * 499 + "…"
    assert [(point.name, point.step) for point in points(REPORT)] == [
        ("train/learning_rate", 1), ("train/loss", 2), ("train/learning_rate", 2), ("validation/loss", 2),
    ]  # fmt: skip
    assert summary(REPORT) == {
        "seconds": 12.5,
        "tuned NF4 _ adapter/routing exact_match": 0.5,
        "tuned NF4 _ adapter/routing exact_match low": 0.4,
        "tuned NF4 _ adapter/routing exact_match high": 0.6,
    }
    assert labels(REPORT) == {
        "run": REPORT["run_id"], "recipe": "demo", "verdict": "pass", "artifact/train adapter": "a" * 64,
    }  # fmt: skip
    assert not failed(REPORT)
    assert failed({"stages": [{"state": "interrupted"}]})


def test_trackers_are_asked_for_by_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNELINE_TRACKERS", raising=False)
    assert Settings().asked_trackers == ()
    monkeypatch.setenv("TUNELINE_TRACKERS", "mlflow,wandb")
    assert Settings().asked_trackers == ("mlflow", "wandb")
    monkeypatch.setenv("TUNELINE_TRACKERS", "comet")
    with pytest.raises(Usage, match=r"TUNELINE_TRACKERS: expected .*, found 'comet'"):
        Settings()


def test_what_is_not_installed_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"wandb"}
    monkeypatch.setattr(trackers, "find_spec", lambda name: name if name in there else None)
    assert missing(["mlflow", "wandb"]) == ["mlflow"]
    assert missing([]) == []
