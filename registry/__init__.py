"""The registry: immutable artifacts, their lineage, gate decisions, channels and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.catalog import Artifact, Edge, Execution
    from registry.channels.channels import Channel, ChannelEvent, Waiver
    from registry.channels.decisions import GateDecision
    from registry.registry import Registry
    from registry.store.store import Discrepancy
    from registry.tenancy.endpoints import Endpoint

__all__ = [
    "Artifact",
    "Channel",
    "ChannelEvent",
    "Discrepancy",
    "Edge",
    "Endpoint",
    "Execution",
    "GateDecision",
    "Registry",
    "Waiver",
]

_HOMES = {
    "Artifact": "catalog",
    "Channel": "channels.channels",
    "ChannelEvent": "channels.channels",
    "Edge": "catalog",
    "Endpoint": "tenancy.endpoints",
    "Execution": "catalog",
    "GateDecision": "channels.decisions",
    "Discrepancy": "store.store",
    "Registry": "registry",
    "Waiver": "channels.channels",
}


def __getattr__(name: str) -> Any:
    # A stage imports registry.artifacts only; it must not pay for SQLAlchemy.
    if name not in _HOMES:
        raise AttributeError(f"module 'registry' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"registry.{_HOMES[name]}"), name)
