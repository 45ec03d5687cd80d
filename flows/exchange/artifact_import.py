"""Adopt what was made elsewhere: a PEFT adapter, a merged model, a GPTQ directory or a GGUF file."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.errors import Usage
from flows.exchange.bring_base import given_base, matched_base, refuse_contradiction, resolved
from flows.exchange.import_findings import FORMS, Findings, describe
from flows.run.find_or_make import StageInputs, find_or_make
from flows.settings import Settings
from registry import Artifact, Registry
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.store.files import wrap_os_errors
from stages.config.base import BaseConfig
from stages.contract import Facts
from stages.errors import InvalidInput
from stages.formats.model_files import INDEX, copy_file, need_room, sha256_of_file
from stages.untrusted.inspect import compare_vocabulary, inspect

STAGE = "import"
VERSION = 2


@dataclass(frozen=True)
class Adoption:
    """An imported artifact, and what is known of it."""

    artifact: Artifact
    base: Artifact
    findings: Findings
    left_out: list[str]


def adopt(registry: Registry, path: Path, kind: str | None = None, base: str | None = None) -> Adoption:
    """Publish the files at `path` as an artifact of the base `base`, or of the one that they name exactly.

    `base`: a reference to an artifact, or a source such as hub:ORG/NAME@COMMIT, which is resolved first.
    Raises `InvalidInput` for files that cannot be trusted, `Usage` where the base is not known, Incompatible
    where they do not fit it. Nothing is published then.
    """
    path = path.expanduser()
    with tempfile.TemporaryDirectory(prefix="tuneline-import-") as scratch:
        log = Path(scratch) / "resolve.log"
        if kind == "base":
            artifact = resolved(registry, BaseConfig(source=f"path:{path}"), log)
            return Adoption(artifact, artifact, Findings(established=["base: resolved from its files"]), [])
        header = inspect(path)
        if header["form"] == "gguf-adapter":
            raise Usage(
                f"{path.name} is a GGUF adapter, which does not say on which weights it was trained; import "
                "the PEFT adapter that it was made from. A recipe with an `adapter` section makes a GGUF "
                "adapter that can be served"
            )
        if kind not in (None, FORMS[header["form"]].kind):
            raise Usage(f"--kind {kind}: {path.name} is {FORMS[header['form']].name}; leave --kind out")
        parent, findings = _parent(registry, header, base, path, log)
    return _publish(registry, path, header, parent, findings)


def _parent(
    registry: Registry, header: Mapping[str, Any], base: str | None, path: Path, log: Path
) -> tuple[Artifact, Findings]:
    what = f"{path.name} ({FORMS[header['form']].name})"
    if base is None:
        try:
            parent, reason = matched_base(registry, header, what)
        except Usage as error:
            if header["form"] != "model":
                raise
            raise Usage(f"{error}; or import it as a base of its own: --kind base") from None
        findings = Findings(claimed=[f"base: {reason}"])
    else:
        parent = given_base(registry, base, log)
        refuse_contradiction(header, parent)
        findings = Findings(claimed=[f"base: {_named(parent)} was given with --base"])
    if parent.manifest.kind not in FORMS[header["form"]].parents:
        raise Usage(
            f"--base {base or parent.id[:12]} is a {parent.manifest.kind} artifact; {what} belongs to "
            f"a {' or '.join(FORMS[header['form']].parents)} artifact"
        )
    return parent, findings


def _publish(
    registry: Registry, path: Path, header: Mapping[str, Any], parent: Artifact, findings: Findings
) -> Adoption:
    folder = path if path.is_dir() else path.parent
    sources = {_name_of(name, header): (folder / name).resolve() for name in header["files"]}
    stamps = {name: _stamp(file) for name, file in sources.items()}
    digests = {name: sha256_of_file(file) for name, file in sorted(sources.items())}
    form, record = header["form"], header.get("record") or {}
    # what Tuneline's own record beside the files says is part of the result, though it is not copied
    own = {"base": record.get("base"), "quant": record.get("quant")}
    outside = {"files": digests, "claimed": findings.claimed, "record": own}
    relations = {"base": FORMS[form].relation}
    inputs = StageInputs(STAGE, VERSION, {"form": form}, {"base": parent}, relations, outside=outside)

    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        started, clock = datetime.now(UTC), time.monotonic()
        need_room(draft.path, sum(file.stat().st_size for file in sources.values()), "the import")
        with wrap_os_errors("importing"):
            for name, file in sources.items():
                copy_file(file, draft.path / name)
                draft.touch()
        if {name: _stamp(file) for name, file in sources.items()} != stamps:
            raise InvalidInput(f"{path} changed while it was imported; leave it alone and try again")
        again = inspect(draft.path, thorough=True)
        again["record"] = header["record"]
        tokens = compare_vocabulary(_place(draft.path, again), registry.view(parent.id))
        facts = describe(again, parent, tokens, findings)
        _complete(draft.path, again, findings)
        metrics = {**facts.metrics, "import": vars(findings)}
        return facts.model_copy(update={"metrics": metrics}), ResourceUse(started, time.monotonic() - clock)

    artifact, _ = find_or_make(registry, inputs, make, Settings().patience())
    return Adoption(artifact, parent, Findings(**artifact.manifest.metrics["import"]), header["left_out"])


def _name_of(name: str, header: Mapping[str, Any]) -> str:
    """Engines look for these names; the older auto-gptq wrote others."""
    if header["form"] == "gguf":
        return "model.gguf"
    alone = header.get("weights") == [name] and INDEX not in header["files"]
    return "model.safetensors" if alone else name


def _complete(folder: Path, header: Mapping[str, Any], findings: Findings) -> None:
    """Put GPTQ's settings where transformers, GPTQModel and vLLM look for them."""
    if header["form"] != "gptq" or header["quantization"]["stands_in"] == "config.json":
        return
    settings = json.loads((folder / "quantize_config.json").read_text("utf-8"))
    for local in ("model_name_or_path", "model_file_base_name"):
        settings.pop(local, None)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    form = header["quantization"]["checkpoint_format"]
    # without this, GPTQModel makes a temporary directory for every checkpoint that it opens
    meta = {**(settings.get("meta") or {}), "offload_to_disk": False, "offload_to_disk_path": None}
    settings |= {"quant_method": "gptq", "checkpoint_format": form, "meta": meta}
    config["quantization_config"] = settings
    for name, tree in (("config.json", config), ("quantize_config.json", settings)):
        (folder / name).write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")
    findings.established.append("config.json: given the settings of quantize_config.json, as engines read it")


def _named(base: Artifact) -> str:
    reference = base.manifest.base
    return f"{reference.source} at {reference.revision[:12]}" if reference else base.id[:12]


def _place(folder: Path, header: Mapping[str, Any]) -> Path:
    return folder / "model.gguf" if header["form"] == "gguf" else folder


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
