"""The base that something belongs to: named by the user, or matched with one in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.errors import Usage
from flows.run.find_or_make import find_or_make, make_in_child, stage_inputs
from flows.settings import Settings
from registry import Artifact, Registry
from registry.artifacts import BaseReference
from registry.catalog import ResourceUse
from registry.compat.base_reference import differing
from registry.drafts import Draft
from registry.errors import Incompatible
from stages.config.base import BaseConfig
from stages.contract import Facts

SCHEMES = ("hub:", "path:", "package:", "pico:")
HOW = (
    "give it: --base with the id or name of a base in this registry (`tuneline artifacts ls --kind base`), "
    "hub:ORG/NAME@COMMIT or path:DIRECTORY"
)


def given_base(registry: Registry, base: str, log: Path) -> Artifact:
    """The artifact that `--base` names; a source that is not in the registry yet is resolved into it."""
    if not base.startswith(SCHEMES):
        return registry.get(base)
    try:
        return resolved(registry, BaseConfig(source=base), log)
    except ValidationError as error:
        raise Usage(f"--base {base}: {error.errors()[0]['msg']}") from None


def resolved(registry: Registry, config: BaseConfig, log: Path) -> Artifact:
    """The base of a source as a run of a recipe would resolve it, from the registry where it is there."""
    scheme, _, place = config.source.partition(":")
    if scheme == "path":  # the stage runs in a directory of its own
        config = config.model_copy(update={"source": f"path:{Path(place).expanduser().resolve()}"})
    inputs = stage_inputs("resolve", config, {})

    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        return make_in_child(registry, inputs, config, draft, log, lambda event: draft.touch())

    return find_or_make(registry, inputs, make, Settings().patience())[0]


def matched_base(registry: Registry, header: Mapping[str, Any], what: str) -> tuple[Artifact, str]:
    """The one base that the files name exactly, and in which words. Raises `Usage` saying how to give it.

    Exactly means a whole base reference, or a repository with its commit. A name alone matches nothing.
    """
    bases = [base for base in _all_bases(registry) if base.manifest.base is not None]
    record = recorded_base(header)
    if record is not None:
        for base in bases:
            if not differing(base.manifest.base, record):  # type: ignore[arg-type]
                return base, f"{header['record']['file']} beside it names {record.source}, every digest equal"
    config = header.get("config") or {}
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if name and revision:
        for base in bases:
            reference = base.manifest.base
            if reference and reference.revision == revision and reference.source in (name, f"hub:{name}"):
                return base, f"adapter_config.json names {name} at {revision[:12]}"
    named = f" (its files name {str(name)[:80]!r}, revision {str(revision)[:40]})" if name else ""
    raise Usage(f"which base {what} belongs to cannot be told from its files{named}; {HOW}")


def refuse_contradiction(header: Mapping[str, Any], base: Artifact) -> None:
    """Raise Incompatible where the files name another base than the given one."""
    reference, record = base.manifest.base, recorded_base(header)
    if reference is None:
        return
    if record is not None and (wrong := differing(reference, record)):
        raise Incompatible(
            f"{header['record']['file']} says that it was made for {record.source} at "
            f"{record.revision[:12]}, not for {reference.source} at {reference.revision[:12]} "
            f"(they differ in {', '.join(difference.name for difference in wrong)}); give that base"
        )
    config = header.get("config") or {}
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if revision and reference.source in (name, f"hub:{name}") and revision != reference.revision:
        raise Incompatible(
            f"adapter_config.json names {name} at revision {str(revision)[:40]}, but the base given is "
            f"{reference.source} at {reference.revision[:12]}; give the base at the adapter's revision"
        )


def recorded_base(header: Mapping[str, Any]) -> BaseReference | None:
    """The whole base reference that Tuneline wrote beside the files, if it did."""
    base = (header.get("record") or {}).get("base")
    try:
        return BaseReference.model_validate({k: v for k, v in base.items() if k != "id"}) if base else None
    except (ValidationError, AttributeError):
        return None


def _all_bases(registry: Registry) -> list[Artifact]:
    bases: list[Artifact] = []
    while page := registry.ls(kind="base", limit=200, after=bases[-1].id if bases else None):
        bases += page
    return bases
