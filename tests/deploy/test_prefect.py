"""prefect.yaml: as Prefect itself reads it, with an entrypoint that exists; no worker runs it here."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any


def test_prefect_reads_its_file(prefect_file: dict[str, Any], tree: Path) -> None:
    from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, PrefectYamlModel
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy
    from prefect.client.schemas.schedules import CronSchedule

    document = prefect_file
    read = PrefectYamlModel.model_validate(document)
    assert len(read.deployments) == 1
    assert set(document["deployments"][0]) <= set(DeploymentConfig.model_fields)
    limit = document["deployments"][0]["concurrency_limit"]
    assert set(limit) <= set(ConcurrencyLimitSpec.model_fields)
    assert ConcurrencyLimitStrategy(limit["collision_strategy"])
    for schedule in document["deployments"][0]["schedules"]:
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert f"prefect=={document['prefect-version']}" in (tree / "requirements.lock").read_text().splitlines()


def test_prefects_pull_step_exists(prefect_file: dict[str, Any]) -> None:
    for step in prefect_file["pull"]:
        for path, arguments in step.items():
            module, _, name = path.rpartition(".")
            assert callable(getattr(import_module(module), name))
            assert set(arguments) == {"directory"}


def test_the_scheduled_recipes_are_shipped(prefect_file: dict[str, Any], tree: Path) -> None:
    for recipe in prefect_file["deployments"][0]["parameters"]["recipes"]:
        assert (tree / "flows" / "recipes" / f"{recipe}.yaml").is_file()


def test_the_entrypoint_takes_the_parameters(prefect_file: dict[str, Any], tree: Path) -> None:
    deployment = prefect_file["deployments"][0]
    file, _, function = deployment["entrypoint"].partition(":")
    body = ast.parse((tree / file).read_text()).body
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == function]
    assert len(found) == 1, f"{file} defines no {function}"
    assert any(ast.unparse(d).startswith("flow(") for d in found[0].decorator_list)
    arguments = found[0].args
    required = {a.arg for a in arguments.args[: len(arguments.args) - len(arguments.defaults)]}
    assert required <= set(deployment["parameters"]) <= {a.arg for a in arguments.args}


def test_the_commands_in_the_comments_name_files_that_exist(tree: Path) -> None:
    for file in (tree / "deploy" / name for name in ("Dockerfile", "compose.yaml", "prefect.yaml")):
        for line in re.findall(r"^#   (.+)$", file.read_text(), re.M):
            for word in shlex.split(line):
                if word.startswith("deploy/"):
                    assert (tree / word).exists(), f"{file.name}: {word}"
