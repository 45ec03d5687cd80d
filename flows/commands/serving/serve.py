"""`tuneline serve`: the gateway and its engines, until a signal ends it."""

from __future__ import annotations

import argparse
import copy
import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.configuration.overrides import apply_overrides, parse_overrides
from flows.configuration.validation import validate
from flows.configuration.yaml_text import read_yaml
from flows.errors import InvalidRecipe
from flows.formatting import size
from flows.planning.machine import machine
from flows.run.child import child_environment
from flows.settings import Settings
from registry import Registry
from registry.errors import NotFound
from serving.gateway.config import ServeConfig
from stages.arithmetic import machine_speed
from stages.errors import InsufficientResources

TYPICAL_LAYER = (1024, 4096)
"""Inputs and outputs; which type is the faster one hardly depends on them."""


def serve(arguments: argparse.Namespace) -> Reply:
    """Serve what `serve.yaml` describes; says where as soon as it listens.

    Raises InvalidRecipe for a configuration that is none, InsufficientResources where this machine cannot
    hold the engines, ServingError for an engine that does not work, RegistryError.
    """
    config = _config(arguments.config, arguments.set)
    if arguments.check:
        return _check(arguments.config, config)
    config = with_arithmetic(config, Settings())
    from serving.gateway.server import log_to_stderr, run

    with open_registry() as registry:
        if not arguments.ignore_memory:
            _refuse_shortfalls(registry, config)
        log_to_stderr()
        run(config, registry, partial(_announce, arguments.json))
    return Reply(None, lambda: None)


def with_arithmetic(config: ServeConfig, settings: Settings) -> ServeConfig:
    """With float32 for each vLLM's `dtype: auto` where this machine, which is measured, has no bfloat16."""
    asking = [engine.engine == "vllm" and engine.dtype == "auto" for engine in config.engines]
    if not any(asking):
        return config
    speed = machine_speed(*TYPICAL_LAYER, settings.cache_folder, child_environment())
    if speed.compute_dtype != "float32":
        return config
    engines = [
        engine.model_copy(update={"dtype": "float32"}) if asks else engine
        for engine, asks in zip(config.engines, asking, strict=True)
    ]
    return config.model_copy(update={"engines": engines})


def _announce(as_json: bool, url: str, operations: str) -> None:
    announcement = {"url": f"{url}/v1", "operations": operations, "pid": os.getpid()}
    words = f"tuneline serve: {url}/v1; metrics and readiness at {operations}; Ctrl-C ends it"
    print(json.dumps(announcement) if as_json else words, flush=True)


def _refuse_shortfalls(registry: Registry, config: ServeConfig) -> None:
    """Raise `InsufficientResources` if this machine cannot hold the engines."""
    from flows.planning.serving.memory import estimate_engines, shortfalls

    here = machine(registry.home)
    missing = shortfalls(estimate_engines(registry, config.engines, here), here)
    if missing:
        raise InsufficientResources(f"{'; '.join(missing)}; or --ignore-memory, to try all the same")


def _check(path: Path, config: ServeConfig) -> Reply:
    """What the file describes, and what its engines need, as far as this registry knows their models."""
    from flows.planning.serving.memory import EngineEstimate, estimate_engines, shortfalls

    engines, missing, unknown = list[EngineEstimate](), list[str](), None
    with open_registry() as registry:
        here = machine(registry.home)
        try:
            engines = estimate_engines(registry, config.engines, here)
            missing = shortfalls(engines, here)
        except NotFound as error:
            unknown = str(error)
    document = {
        "config": config.model_dump(mode="json"),
        "estimates": [asdict(estimate) for estimate in engines],
        "shortfalls": missing,
        "unknown": unknown,
    }

    def show() -> None:
        if engines:
            rows = [(engine.engine, size(engine.memory_bytes), engine.note) for engine in engines]
            print_table(f"{path}: valid; estimates", ("engine", "memory", "note"), rows)
        else:
            print(f"{path}: valid. What its engines need is not known here: {unknown}")
        for line in missing:
            print(f"Not enough: {line}")

    return Reply(document, show, 3 if missing else 0)


def _config(path: Path, overrides: list[str]) -> ServeConfig:
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InvalidRecipe(f"{path}: expected keys such as `engines`, found {type(tree).__name__}")
    changes, before = parse_overrides(overrides), copy.deepcopy(tree)
    apply_overrides(tree, changes)
    return validate(ServeConfig, tree, str(path), changes, before)
