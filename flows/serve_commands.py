"""`tuneline serve`: the gateway and its engines, until a signal ends it."""

from __future__ import annotations

import argparse
import json
import os

from flows.commands import Reply, open_registry
from serving.gateway.config import load


def serve(arguments: argparse.Namespace) -> Reply:
    """Serve what `serve.yaml` describes; says where as soon as it listens.

    Raises ServingError for a configuration or an engine that does not work, RegistryError.
    """
    config = load(arguments.config)
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
