"""Export an artifact: a directory that says what it is, where it came from and who vouches for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flows.errors import Usage
from flows.exchange.dossier import SBOM, Dossier, gather, place
from flows.exchange.export_check import verify_directory
from flows.exchange.export_documents import documents
from flows.exchange.sbom import schema_problem
from flows.exchange.signature import sign_directory
from flows.formatting import short, size
from registry import Registry
from registry.channels import signing
from registry.errors import Corrupt, StoreFull
from registry.store.files import remove_tree, sync_directory, sync_file, wrap_os_errors


@dataclass(frozen=True)
class ExportResult:
    """What was written: the artifact's id, the new directory, its files, the fingerprint of the signer."""

    id: str
    out: Path
    files: tuple[str, ...]
    signer: str


def export(registry: Registry, ref: str, out: Path, private_key: Path) -> ExportResult:
    """Write the artifact of `ref`, with all that is known about it, to the new directory `out`, and sign it.

    The directory appears whole or not at all, and only once it has been verified as others will. Raises Usage
    for an `out` that exists, NotFound, Corrupt for content that is gone or damaged, InvalidArtifact for a key
    that is none, StoreFull, StoreFailed.
    """
    if os.path.lexists(out):
        raise Usage(f"{out} exists already; name a new directory (nothing is overwritten)")
    out = out.resolve()
    public_pem = signing.public_key(private_key)
    artifact, dossier = gather(registry, ref)
    view = registry.view(artifact.id)
    with wrap_os_errors(f"export of {short(artifact.id)} to {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        _refuse_shortage(artifact.size, out.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            # Under its final name already: a signature speaks of the directory by name.
            draft = scratch / out.name
            _write_files(dossier, view, draft)
            _write_documents(dossier, draft)
            signer = sign_directory(draft, private_key)
            (scratch / "signer.pub.pem").write_bytes(public_pem)
            _refuse_faults(dossier, draft, scratch / "signer.pub.pem")
            files = _synced(draft)
            if os.path.lexists(out):
                raise Usage(f"{out} was made by somebody else meanwhile; nothing is overwritten")
            draft.rename(out)
            sync_directory(out.parent)
        finally:
            remove_tree(scratch)
    return ExportResult(artifact.id, out, files, signer)


def _write_files(dossier: Dossier, view: Path, draft: Path) -> None:
    draft.mkdir()
    for name in dossier.manifest.files:
        target = draft / place(name, dossier.is_model)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(view / name, target)


def _write_documents(dossier: Dossier, draft: Path) -> None:
    written = documents(dossier)
    if (problem := schema_problem(written[SBOM].decode())) is not None:
        raise ValueError(f"the SBOM of {short(dossier.id)} violates CycloneDX 1.6: {problem}")
    for name, content in written.items():
        (draft / name).write_bytes(content)


def _refuse_faults(dossier: Dossier, draft: Path, public_key: Path) -> None:
    problems = verify_directory(draft, public_key).problems
    if problems:
        raise Corrupt(
            f"artifact {short(dossier.id)} is not as it was published: {problems[0]}; nothing was exported: "
            f"run `tuneline artifacts verify {short(dossier.id)}`, then make it again or restore a backup"
        )


def _synced(draft: Path) -> tuple[str, ...]:
    """The files below `draft`, all of it on the disk."""
    written = []
    for directory, _, names in os.walk(draft):
        for name in names:
            sync_file(Path(directory) / name)
            written.append((Path(directory) / name).relative_to(draft).as_posix())
        sync_directory(Path(directory))
    return tuple(sorted(written))


def _refuse_shortage(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreFull(
            f"{folder}: the export needs {size(needed)}, {size(free)} are free; nothing was written: "
            "free some space or name another directory"
        )
