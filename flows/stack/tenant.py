"""Something to serve, made once: an adapter over a 2-layer base, the gateway's file, a tenant and its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.errors import Usage
from flows.stack.databases import write_private
from flows.stack.programs import Places

CHANNEL, BASE, TENANT = "pico/tenant", "pico-0-q8_0@1", "stack"


def prepare(places: Places, environment: Mapping[str, str]) -> Path:
    """Make what is missing; returns the file with the tenant's key."""
    key = places.folder / "tenant-key"
    channels = {channel["name"] for channel in tuneline(environment, "channels")}
    if CHANNEL not in channels:
        tuneline(environment, "run", "pico-tenant")
    tenants = {tenant["name"] for tenant in tuneline(environment, "tenants", "ls")}
    if TENANT not in tenants:
        made = tuneline(environment, "tenants", "add", TENANT, CHANNEL)
        write_private(key, made["key"] + "\n")
    elif not key.is_file():
        made = tuneline(environment, "tenants", "rotate", TENANT, "--overlap", "0s")
        write_private(key, made["key"] + "\n")
    _serve_file(places)
    return key


def _serve_file(places: Places) -> None:
    engine = {"engine": "llama.cpp", "model": BASE, "adapters": 4, "context_length": 512, "parallel": 2}
    tree = {
        "gateway": {"host": "127.0.0.1", "port": places.port("gateway")},
        "operations": {"host": "127.0.0.1", "port": places.port("operations")},
        "engines": [engine],
    }
    (places.folder / "serve.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def tuneline(environment: Mapping[str, str], *words: str) -> Any:
    """What the command prints as JSON; its progress goes on to standard error. Raises Usage."""
    command = [sys.executable, "-m", "flows.cli", *words, "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Usage(f"`tuneline {' '.join(words)}` ended with {done.returncode}; what it said is above")
    return json.loads(done.stdout)
