"""Tells trackers of a run that is over, each in a process of its own: none of them can fail a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SECONDS = 300.0
"""After which a tracker is given up."""
PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
"""Tracker, which is the name of its module too → the package to install. All of MLflow asks for an older
pyarrow than the one here."""
_TREE = Path(__file__).resolve().parents[2]
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # its own 7 retries of 120 s each take minutes to say that no server is there
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""What the variables of the same names are where nobody set them."""


def missing(names: Sequence[str]) -> list[str]:
    """Those of the trackers whose packages are not installed."""
    return [name for name in names if find_spec(name) is None]


def track(
    names: Sequence[str],
    home: Path,
    report: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    page: Path,
    remark: Callable[[str], None],
) -> None:
    """Tell each of the trackers; what keeps one from it is told to `remark`.

    `report`: the run's, as JSON values; `recipe`: what was asked for; `page`: its HTML report.
    """
    job = json.dumps({"home": str(home), "report": report, "recipe": recipe, "page": str(page)}, default=str)
    for name in names:
        problem = _told(name, job)
        if problem is not None:
            remark(f"{name} does not have run {report['run_id']}: {problem}; all of it is in {page.parent}")


def _told(name: str, job: str) -> str | None:
    """Why a tracker could not be told; None where it was."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flows.tracking.export", name],
            input=job,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            cwd=_TREE,
            env={**_QUIET, **os.environ},
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with status {done.returncode}"
