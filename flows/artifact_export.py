"""Export an artifact: a directory that says what it is, where it came from and who vouches for it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dossier import CARD, DECISIONS, FACTS, LINEAGE, MANIFEST, SBOM, Dossier, gather, place
from flows.errors import Usage
from flows.model_card import model_card
from flows.sbom import bill_of_materials, schema_problem
from flows.signature import sign_directory
from flows.wording import short, size
from registry import Registry, signing
from registry.artifacts import Manifest, canonical
from registry.errors import Corrupt, StoreFull
from registry.files import fault, remove_tree, sync_directory, sync_file, translated, walk

FORMAT = 1
"""Of the JSON files beside the artifact's own; a verifier refuses a higher one."""


@dataclass(frozen=True)
class Exported:
    """What was written: the artifact's id, the new directory, its files, the fingerprint of the signer."""

    id: str
    out: Path
    files: tuple[str, ...]
    signer: str


def export(registry: Registry, ref: str, out: Path, private_key: Path) -> Exported:
    """Write the artifact of `ref`, with all that is known about it, to the new directory `out`, and sign it.

    The directory appears whole or not at all. Every file is read again after it was copied. Raises Usage for
    an `out` that exists, NotFound, Corrupt for content that is gone or damaged, InvalidArtifact for a key
    that is none, StoreFull, StoreFailed.
    """
    if os.path.lexists(out):
        raise Usage(f"{out} exists already; name a new directory (nothing is overwritten)")
    out = out.resolve()
    signing.public_key(private_key)
    artifact, dossier = gather(registry, ref)
    view = registry.view(artifact.id)
    with translated(f"export of {short(artifact.id)} to {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        _refuse_shortage(artifact.size, out.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            # Under its final name already: a signature speaks of the directory by name.
            draft = scratch / out.name
            _write_files(dossier, view, draft)
            _write_documents(dossier, draft)
            signer = sign_directory(draft, private_key)
            files = tuple(sorted(path.relative_to(draft).as_posix() for path in walk(draft)))
            for name in files:
                sync_file(draft / name)
            sync_directory(draft)
            if os.path.lexists(out):
                raise Usage(f"{out} was made by somebody else meanwhile; nothing is overwritten")
            draft.rename(out)
            sync_directory(out.parent)
        finally:
            remove_tree(scratch)
    return Exported(artifact.id, out, files, signer)


def documents(dossier: Dossier) -> dict[str, bytes]:
    """Name → content of what stands beside the artifact's own files, but for the signature."""
    written = {
        MANIFEST: canonical(dossier.manifest.model_dump(mode="json")),
        FACTS: pretty(facts(dossier.manifest)),
        LINEAGE: pretty(
            {
                "format": FORMAT,
                "artifact": dossier.id,
                "published": dossier.published,
                "evaluations": list(dossier.evaluations),
                "manifests": {i: m.model_dump(mode="json") for i, m in dossier.manifests.items()},
            }
        ),
        DECISIONS: pretty(list(dossier.decisions)),
        SBOM: pretty(bill_of_materials(dossier)),
    }
    if dossier.is_model:
        written[CARD] = model_card(dossier).encode()
    return written


def facts(manifest: Manifest) -> dict[str, Any]:
    """What the commands that work on plain directories read: a stage's facts."""
    tree = manifest.model_dump(mode="json")
    return {
        "kind": tree["kind"],
        "relations": tree["parents"],
        "base": tree["base"],
        "quant": tree["quant"],
        "metrics": tree["metrics"],
    }


def _write_files(dossier: Dossier, view: Path, draft: Path) -> None:
    draft.mkdir()
    for name, entry in dossier.manifest.files.items():
        target = draft / place(name, dossier.is_model)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(view / name, target)
        if (problem := fault(target, entry)) is not None:
            raise Corrupt(
                f"file {name} of artifact {short(dossier.id)} {problem[1]}; nothing was exported: run "
                f"`tuneline artifacts verify {short(dossier.id)}`, then make the artifact again or restore it"
            )


def _write_documents(dossier: Dossier, draft: Path) -> None:
    written = documents(dossier)
    if (problem := schema_problem(written[SBOM].decode())) is not None:
        raise ValueError(f"the SBOM of {short(dossier.id)} breaks CycloneDX 1.6: {problem}")
    for name, content in written.items():
        (draft / name).write_bytes(content)


def _refuse_shortage(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreFull(
            f"{folder}: the export needs {size(needed)}, {size(free)} are free; nothing was written: "
            "free some space or name another directory"
        )


def pretty(value: Mapping[str, Any] | list[Any]) -> bytes:
    """JSON as the documents of an export are written."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
