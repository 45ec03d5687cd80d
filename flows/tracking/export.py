"""Tells one tracker of one run: `python -m flows.tracking.export NAME`, the run as JSON on standard input.

MLflow: where MLFLOW_TRACKING_URI says, else in a database in the home. W&B: offline, in the home;
`wandb sync` takes it to a server. Both libraries are imported here and nowhere else.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flows.tracking.figures import failed, labels, parameters, points, summary

T = TypeVar("T")
_PARAMETERS, _METRICS = 100, 1000
"""That MLflow takes at once."""


def to_mlflow(job: dict[str, Any]) -> None:
    """A run of the experiment that is called as the recipe."""
    import mlflow
    from mlflow.entities import Metric, Param

    report, folder, artifacts = job["report"], Path(job["home"]) / "mlflow", None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        artifacts = (folder / "artifacts").as_uri()
    client, name = mlflow.MlflowClient(), str(report["recipe"])
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
    run = client.create_run(place, tags=labels(report), run_name=report["run_id"]).info.run_id
    for some in _parts(list(parameters(job["recipe"]).items()), _PARAMETERS):
        client.log_batch(run, params=[Param(key, value) for key, value in some])
    now = int(1000 * time.time())
    series = [Metric(point.name, point.value, now, point.step) for point in points(report)]
    series += [Metric(key, value, now, 0) for key, value in summary(report).items()]
    for part in _parts(series, _METRICS):
        client.log_batch(run, metrics=part)
    if Path(job["page"]).is_file():
        client.log_artifact(run, job["page"])
    client.set_terminated(run, "FAILED" if failed(report) else "FINISHED")


def to_wandb(job: dict[str, Any]) -> None:
    """An offline run of the project that is called as the recipe."""
    import wandb

    report = job["report"]
    run = wandb.init(
        project=str(report["recipe"]),
        name=report["run_id"],
        dir=job["home"],
        mode="offline",
        config={**(job["recipe"] or {}), "tuneline": labels(report)},
    )
    for step, same in itertools.groupby(points(report), key=lambda point: point.step):
        run.log({point.name: point.value for point in same}, step=step)
    run.summary.update(summary(report))
    run.finish(exit_code=int(failed(report)))


TRACKERS: dict[str, Callable[[dict[str, Any]], None]] = {"mlflow": to_mlflow, "wandb": to_wandb}


def main() -> None:
    TRACKERS[sys.argv[1]](json.load(sys.stdin))


def _parts(values: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), most):
        yield values[start : start + most]


if __name__ == "__main__":
    main()
