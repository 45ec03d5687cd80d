"""What this machine and its registry say: packages, engines, ports, the channel that is to be moved."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from flows.errors import Usage
from flows.gates.ancestry import host_of, is_gguf_adapter
from flows.gates.channel import refuse_other_policy
from flows.recipe import Recipe
from flows.settings import Settings
from flows.tracking.trackers import PACKAGES, missing
from flows.training import named_start
from registry import Registry
from registry.errors import RegistryError
from registry.tenancy.endpoints import Endpoint
from serving.errors import EngineMissing, NotServable
from serving.vllm.launch import python_with_vllm
from serving.vllm.tool_parsers import require_parser
from stages.config.feed import feed_of
from stages.quantization import method_of

NEEDED = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "prefect")
"""Modules that every run imports sooner or later."""


def problems(recipe: Recipe, settings: Settings) -> Iterator[str]:
    """Everything around the recipe that would end its run."""
    yield from _packages(recipe)
    for name in missing(settings.asked_trackers):
        yield f"TUNELINE_TRACKERS: {name} is not installed; run: pip install {PACKAGES[name]}"
    yield from _engine(recipe)
    yield from _registry(recipe, settings)


def _packages(recipe: Recipe) -> Iterator[str]:
    needed = [*NEEDED, *(name for q in recipe.quantize for name in method_of(q).packages)]
    if recipe.adapter is not None and not recipe.adapter.on_16bit:
        needed.append("llama_cpp")
    if recipe.deploy is not None and recipe.deploy.engine == "llama.cpp":
        needed.append("llama_cpp")
    if absent := [name for name in dict.fromkeys([*needed, "lm_eval"]) if find_spec(name) is None]:
        yield f"this environment lacks {', '.join(absent)}: install what `make install` installs, whole"


def _engine(recipe: Recipe) -> Iterator[str]:
    if recipe.deploy is not None and recipe.deploy.engine == "vllm":
        try:
            python = python_with_vllm()
            if recipe.deploy.tool_call_parser is not None:
                require_parser(python, recipe.deploy.tool_call_parser)
        except EngineMissing as error:
            yield f"deploy.engine: {error}"
        except NotServable as error:
            yield f"deploy.{error}"


def _registry(recipe: Recipe, settings: Settings) -> Iterator[str]:
    """What the registry says, where there is one: looking makes none."""
    shared = settings.database_url is not None or settings.store_url is not None
    if not shared and not (settings.root / "registry.db").is_file():
        home = next(path for path in (settings.root, *settings.root.parents) if path.exists())
        if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            yield f"TUNELINE_HOME: {settings.root} cannot be made, since {home} is not a writable folder"
        if feed_of(recipe.prepare.source) is not None:
            yield f"prepare.source: {recipe.prepare.source}: no registry, so no feed, in {settings.root}"
        if recipe.train.named_start is not None:
            named = f"{recipe.train.section}.start: {recipe.train.named_start}"
            yield f"{named}: no registry is in {settings.root}"
        yield from _port(recipe, [])
        return
    try:
        registry = Registry.open(
            settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
        )
        with registry:
            registry.reach()
            yield from _feed(recipe, registry)
            yield from _start(recipe, registry)
            yield from _channel(recipe, registry)
            yield from _port(recipe, registry.endpoints.ls(running_only=True))
    except (RegistryError, OSError) as error:
        yield f"the registry: {' '.join(str(error).split())}"


def _feed(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """A feed that is not there, or has no row that the recipe could read."""
    named = feed_of(recipe.prepare.source)
    if named is None:
        return
    try:
        if registry.feeds.get(named[0]).directory is None or named[1] is not None:
            registry.feeds.watermark(*named)
    except RegistryError as error:
        yield f"prepare.source: {error}"


def _start(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """An adapter to go on from that is not there, or is something else."""
    try:
        named_start(registry, recipe.train)
    except RegistryError as error:
        yield f"{recipe.train.section}.start: {error}"
    except Usage as error:
        yield str(error)


def _channel(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """What the channel has, or serves, that would refuse the recipe at its end."""
    if recipe.promote is None or recipe.gate is None:
        return
    try:
        refuse_other_policy(registry, recipe.promote.channel, recipe.gate)
    except Usage as error:
        yield f"promote.channel: {' '.join(str(error).split())}"
    current = registry.channels.get(recipe.promote.channel)
    live = None if current is None else registry.get(current.artifact_id)
    if live is not None and is_gguf_adapter(live) and host_of(registry, live) is None:
        yield (
            f"promote.channel: it serves the GGUF adapter {live.id[:12]}, which was never "
            "measured on a GGUF of its base, so nothing can be compared with it: roll the channel back, or "
            "move it with a waiver"
        )


def _port(recipe: Recipe, running: Sequence[Endpoint]) -> Iterator[str]:
    """A port that somebody else listens on, which the channel's own endpoint gives up; an address that this
    machine does not have."""
    if recipe.deploy is None or recipe.promote is None:
        return
    own = [row for row in running if row.channel == recipe.promote.channel]
    if any(row.url.endswith(f":{recipe.deploy.port}") for row in own):
        return
    family = socket.AF_INET6 if ":" in recipe.deploy.host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((recipe.deploy.host, recipe.deploy.port))
    except OSError as error:
        port, host, why = recipe.deploy.port, recipe.deploy.host, error.strerror
        if port:
            yield f"deploy.port: cannot listen on {port} ({why}); choose another, or 0 for a free one"
        else:
            yield f"deploy.host: cannot listen on {host} ({why}); set it to 127.0.0.1"
