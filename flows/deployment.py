"""Deploy what a channel points to: reuse the endpoint that serves it, or start one and retire the old."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flows.candidate import Candidate
from flows.run.arithmetic import Arithmetic
from flows.run.child import StageExecution, run_in_child
from flows.run.find_or_make import as_parent
from flows.run.stage_row import StageRow
from flows.run.step import Run
from registry import Artifact
from registry.processes import ProcessId
from registry.tenancy.endpoints import Endpoint
from serving import standalone
from stages.config.deploy import DeployConfig
from stages.deploy import DeployFacts


def deploy(
    run: Run, config: DeployConfig, channel: str, candidate: Candidate, base: Artifact, dataset: Artifact
) -> Endpoint:
    """A healthy endpoint that serves the candidate, as configured, and answers as its evaluation did.

    The channel's older endpoints are stopped. What the endpoint was asked is kept with it, as `probe`.
    """
    label, artifact = f"deploy on {config.engine}", candidate.model
    config = settled(config, channel, run.arithmetic)

    def work() -> tuple[Endpoint, StageRow]:
        started = time.monotonic()
        serving = [row for row in run.registry.endpoints.ls(running_only=True) if row.channel == channel]
        for endpoint in serving:
            if _serves(endpoint, artifact, config):
                seconds = time.monotonic() - started
                return endpoint, StageRow(label, "deploy", artifact.id, "reused", seconds, None, endpoint.url)
        if config.port:
            retire(run, [row for row in serving if row.url.endswith(f":{config.port}")])
        run.view.stage(label)
        parts = {"model": artifact, "base": base, "dataset": dataset, "evaluation": candidate.evaluation}
        endpoint, execution = _start(run, config, channel, label, parts)
        retire(run, serving)
        note = f"{endpoint.url} (stop it with: tuneline endpoints stop {endpoint.id})"
        return endpoint, StageRow(
            label, "deploy", artifact.id, "ran", execution.seconds, execution.peak_bytes, note
        )

    return run.task("deploy", label, work, "endpoint")


def _serves(endpoint: Endpoint, artifact: Artifact, config: DeployConfig) -> bool:
    """Whether this endpoint already serves the artifact as configured."""
    asked = {key: value for key, value in endpoint.config.items() if key != "probe"}
    asked = DeployConfig().model_dump(mode="json") | asked  # it may be older than a key
    same = endpoint.artifact_id == artifact.id and asked == config.model_dump(mode="json")
    return same and endpoint.process.is_alive()


def _start(
    run: Run, config: DeployConfig, channel: str, label: str, parts: Mapping[str, Artifact]
) -> tuple[Endpoint, StageExecution]:
    """Start an engine, ask it what its evaluation asked, and record it."""
    folder = run.folder / "deploy"
    folder.mkdir(parents=True, exist_ok=True)
    parents = {role: as_parent(run.registry, part) for role, part in parts.items()}
    execution = run_in_child("deploy", parents, config, folder, run.log(label), run.view.update, run.stand_by)
    facts = DeployFacts.model_validate(execution.facts)
    endpoint = run.registry.endpoints.add(
        channel=channel,
        process=ProcessId(facts.pid, facts.pid_started),
        **facts.model_dump(include={"artifact_id", "engine", "url", "log", "question", "answer"}),
        config={**facts.config, "probe": facts.probe},
    )
    return endpoint, execution


def settled(config: DeployConfig, channel: str, arithmetic: Arithmetic | None) -> DeployConfig:
    """With the channel for a missing name, and for `dtype: auto` the run's arithmetic."""
    update = {} if config.name else {"name": channel}
    if config.dtype == "auto" and arithmetic is not None and arithmetic.compute_dtype == "float32":
        update["dtype"] = "float32"
    return config.model_copy(update=update)


def retire(run: Run, rows: list[Endpoint]) -> None:
    """Stop endpoints that were replaced, and say so in the registry."""
    for row in rows:
        standalone.stop(row)
        run.registry.endpoints.mark_stopped(row.id)
