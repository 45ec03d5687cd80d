"""`tuneline serve`: the gateway and its engines, until a signal ends it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from flows.commands.run import Reply, open_registry
from flows.errors import InvalidRecipe
from flows.recipe import apply_override, read_yaml, validate
from serving.gateway.config import ServeConfig


def serve(arguments: argparse.Namespace) -> Reply:
    """Serve what `serve.yaml` describes; says where as soon as it listens.

    Raises InvalidRecipe for a configuration that is none, ServingError for an engine that does not work,
    RegistryError.
    """
    config = _config(arguments.config, arguments.set)
    if arguments.check:
        document = config.model_dump(mode="json")
        return document, lambda: print(f"{arguments.config}: {len(config.engines)} engines; valid"), 0
    from serving.gateway.server import log_to_stderr, run

    log_to_stderr()

    def announce(url: str, operations: str) -> None:
        told = {"url": f"{url}/v1", "operations": operations, "pid": os.getpid()}
        words = f"tuneline serve: {url}/v1; metrics and readiness at {operations}; Ctrl-C ends it"
        print(json.dumps(told) if arguments.json else words, flush=True)

    with open_registry() as registry:
        run(config, registry, announce)
    return None, lambda: None, 0


def _config(path: Path, overrides: list[str]) -> ServeConfig:
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InvalidRecipe(f"{path}: expected keys such as `engines`, found {type(tree).__name__}")
    for override in overrides:
        apply_override(tree, override)
    return validate(ServeConfig, tree, where=str(path))
