"""What Prefect is told of a schedule: as Prefect itself reads it, with an entrypoint that exists."""

from __future__ import annotations

import inspect
import re
import shlex
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from uuid import uuid4

from flows.retraining.deployments import ENTRYPOINT, deployment
from registry.schedules.definition import Cron, Definition, NewRows
from registry.schedules.schedules import Schedule

DEFINITION = Definition(
    recipe_name="demo", recipe={}, channels=("a/b",), zone="Europe/Berlin",
    triggers=(Cron(at="0 3 * * *"), NewRows(count=5)),
)  # fmt: skip
NIGHTLY = Schedule(
    name="nightly", version=3, paused=True, has_token=False, created=datetime.now(UTC), definition=DEFINITION
)


def test_prefect_reads_what_it_is_told() -> None:
    from prefect.client.schemas.actions import DeploymentCreate

    told = deployment(NIGHTLY, str(uuid4()), "tuneline")
    read = DeploymentCreate.model_validate(told)
    assert set(told) <= set(DeploymentCreate.model_fields), "nothing that Prefect would overlook"
    cron, every = (one.schedule for one in read.schedules)
    assert (cron.cron, cron.timezone) == ("0 3 * * *", "Europe/Berlin")  # type: ignore[union-attr]
    assert every.interval.total_seconds() == 900  # type: ignore[union-attr]
    assert read.paused
    asked_only = DEFINITION.model_copy(update={"triggers": ()})
    quiet = deployment(NIGHTLY.model_copy(update={"definition": asked_only}), str(uuid4()), "tuneline")
    assert quiet["schedules"] == []


def test_the_entrypoint_takes_the_parameters() -> None:
    from prefect import Flow

    module, _, name = ENTRYPOINT.rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    told = deployment(NIGHTLY, str(uuid4()), "tuneline")["parameters"]
    inspect.signature(flow.fn).bind(**told)


def test_the_commands_in_the_comments_name_files_that_exist(tree: Path) -> None:
    for file in (tree / "deploy" / name for name in ("Dockerfile", "compose.yaml")):
        for line in re.findall(r"^#   (.+)$", file.read_text(), re.M):
            for word in shlex.split(line):
                if word.startswith("deploy/"):
                    assert (tree / word).exists(), f"{file.name}: {word}"
