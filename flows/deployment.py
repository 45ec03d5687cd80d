"""Deploy what a channel points to: reuse the endpoint that serves it, or start one and retire the old."""

from __future__ import annotations

import time
from typing import Any

from flows.promote import Candidate
from flows.report.report import StageRow
from flows.run.arithmetic import Arithmetic
from flows.run.child import run_in_child
from flows.run.step import Run
from registry import Artifact
from registry.tenancy.endpoints import Endpoint
from serving import standalone
from stages.config.deploy import DeployConfig
from stages.deploy import DeployFacts


def deploy(
    run: Run, config: DeployConfig, channel: str, offer: Candidate, base: Artifact, dataset: Artifact
) -> Endpoint:
    """A healthy endpoint that serves what was offered, as configured, and answers as its evaluation did.

    The channel's older endpoints are stopped. What the endpoint was asked is kept with it, as `probe`.
    """
    label, artifact = f"deploy on {config.engine}", offer.model
    config = settled(config, channel, run.arithmetic)

    def work() -> tuple[Endpoint, StageRow]:
        started = time.monotonic()
        serving = [row for row in run.registry.endpoints.ls(running_only=True) if row.channel == channel]
        for row in serving:
            asked = {key: value for key, value in row.config.items() if key != "probe"}
            same = row.artifact_id == artifact.id and asked == config.model_dump(mode="json")
            if same and standalone.alive(row):
                return row, StageRow(
                    label, "deploy", artifact.id, "reused", time.monotonic() - started, None, row.url
                )
        if config.port:
            retire(run, [row for row in serving if row.url.endswith(f":{config.port}")])
        run.view.stage(label)
        folder = run.folder / "deploy"
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": artifact, "base": base, "dataset": dataset, "evaluation": offer.evaluation}
        parents = {role: run.parent(part) for role, part in parts.items()}
        execution = run_in_child(
            "deploy", parents, config, folder, run.log(label), run.view.update, run.stand_by
        )
        facts = DeployFacts.model_validate(execution.facts)
        known = {"artifact_id", "engine", "url", "pid", "pid_started", "log", "question", "answer"}
        row = run.registry.endpoints.add(
            channel=channel,
            **facts.model_dump(mode="json", include=known),
            config={**facts.config, "probe": facts.probe},
        )
        retire(run, serving)
        note = f"{row.url} (stop it with: tuneline endpoints stop {row.id})"
        return row, StageRow(
            label, "deploy", artifact.id, "ran", execution.seconds, execution.peak_bytes, note
        )

    return run.task("deploy", label, work)


def settled(config: DeployConfig, channel: str, arithmetic: Arithmetic | None) -> DeployConfig:
    """With the channel for a missing name, and for `dtype: auto` the run's arithmetic."""
    found: dict[str, Any] = {} if config.name else {"name": channel}
    if config.dtype == "auto" and arithmetic is not None and arithmetic.compute_dtype == "float32":
        found["dtype"] = "float32"
    return config.model_copy(update=found)


def retire(run: Run, rows: list[Endpoint]) -> None:
    """Stop endpoints that were replaced, and say so in the registry."""
    for row in rows:
        standalone.stop(row)
        run.registry.endpoints.mark_stopped(row.id)
