"""Verify an exported directory on a machine that has no registry."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from flows.errors import Usage
from flows.exchange import model_card, sbom
from flows.exchange.dossier import (
    CARD,
    DECISIONS,
    FACTS,
    LINEAGE,
    MANIFEST,
    SBOM,
    SIGNATURE,
    Dossier,
    JsonObject,
    is_about,
    place,
)
from flows.exchange.export_documents import FORMAT, facts, pretty
from flows.exchange.export_reading import Broken, brief, parsed, read, read_json
from flows.exchange.signature import signature_problem, signed_names
from flows.formatting import plain, short
from registry.artifacts import MODEL_KINDS, Manifest, canonical
from registry.channels import signing
from registry.channels.decisions import GateDecision, signed_content
from registry.store.files import fault, leaves

UNCHECKED = (
    "the signature was not checked, since the signer's public key was not given (--public-key): whoever "
    "changed one "
    "of these files could have changed the others to match, so nothing here shows who made them"
)


@dataclass(frozen=True)
class Verified:
    """What was found. `id` is the manifest's digest, None where there is no readable manifest."""

    id: str | None
    problems: tuple[str, ...]
    signer: str | None
    """Fingerprint of the public key that the signature was checked with; None where it was not checked."""
    not_proved: tuple[str, ...]
    """What this verification does not show, one sentence each."""


def verify_directory(directory: Path, public_key: Path | None) -> Verified:
    """Compare every file with the manifest, the manifest with its id, and all documents with each other.

    With a public key the signature is checked too. Whatever is wrong becomes a problem, one sentence each;
    raises Usage or InvalidArtifact only for a `public_key` that is none.
    """
    pem = None if public_key is None else _public_pem(public_key)
    signer = None if pem is None else signing.fingerprint(pem)
    directory = directory.resolve()
    manifest_id: str | None = None
    problems: list[str] = []
    not_proved = [UNCHECKED] if pem is None else []
    try:
        manifest, manifest_id = _manifest(directory)
        problems += _file_problems(directory, manifest)
        dossier = _dossier(directory, manifest, manifest_id)
        problems += _document_problems(directory, dossier)
        decisions = _decisions(dossier)
        problems += _decision_problems(dossier, decisions, pem)
        not_proved += _unchecked_decisions(decisions, signer)
    except Broken as error:
        problems.append(str(error))
    problems += _signature_problems(directory, public_key)
    return Verified(manifest_id, tuple(map(_line, problems)), signer, tuple(map(_line, not_proved)))


def _line(sentence: str) -> str:
    return " ".join(plain(sentence).splitlines())


def _public_pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Usage(f"public key {path}: cannot be read ({error.strerror})") from None


def _manifest(directory: Path) -> tuple[Manifest, str]:
    raw = read(directory, MANIFEST)
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise Broken(f"{MANIFEST}: is not a valid manifest: {error.errors()[0]['msg']}") from None
    if canonical(manifest.model_dump(mode="json")) != raw:
        raise Broken(f"{MANIFEST}: is not in the canonical form, whose sha256 is the id")
    return manifest, hashlib.sha256(raw).hexdigest()


def _file_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    is_model = manifest.kind in MODEL_KINDS
    expected = {place(name, is_model): entry for name, entry in manifest.files.items()}
    beside = {MANIFEST, FACTS, LINEAGE, DECISIONS, SBOM, SIGNATURE} | ({CARD} if is_model else set())
    present = dict(leaves(directory))
    for name in sorted(present.keys() - expected.keys() - beside):
        yield f"{name}: extra: the manifest does not name it"
    for name in sorted(name for name in present.keys() & beside if present[name] < 0):
        yield f"{name}: altered: it is not a regular file"
    for name in sorted(beside - present.keys() - {SIGNATURE}):
        yield f"{name}: missing"
    for name in _empty_directories(directory):
        yield f"{name}/: extra: an empty directory"
    for name, entry in expected.items():
        if _linked(directory, name):
            yield f"{name}: altered: it is reached through a symbolic link"
        elif (problem := fault(directory / name, entry)) is not None:
            yield f"{name}: {problem[0]}: {problem[1]}"


def _linked(directory: Path, name: str) -> bool:
    """Whether a directory on the way is a link: what is behind it is outside."""
    parts = Path(name).parts[:-1]
    return any(directory.joinpath(*parts[: depth + 1]).is_symlink() for depth in range(len(parts)))


def _empty_directories(directory: Path) -> Iterator[str]:
    for here, below, files in os.walk(directory):
        if not below and not files and Path(here) != directory:
            yield Path(here).relative_to(directory).as_posix()


def _document_problems(directory: Path, dossier: Dossier) -> Iterator[str]:
    for name, problems in (
        (LINEAGE, _lineage_problems(dossier)),
        (FACTS, _facts_problems(directory, dossier.manifest)),
        (SBOM, _sbom_problems(directory, dossier)),
        (CARD, _card_problems(directory, dossier) if dossier.is_model else iter(())),
    ):
        try:
            yield from (f"{name}: {problem}" for problem in problems)
        except Broken as error:
            yield str(error)
        except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError, RecursionError) as error:
            yield f"{name}: cannot be read as such a document ({type(error).__name__}: {brief(error)})"


def _dossier(directory: Path, manifest: Manifest, manifest_id: str) -> Dossier:
    lineage, decisions = read_json(directory, LINEAGE), read_json(directory, DECISIONS)
    if not (isinstance(decisions, list) and all(isinstance(decision, dict) for decision in decisions)):
        raise Broken(f"{DECISIONS}: is not a list of gate decisions")
    try:
        if lineage["format"] != FORMAT:
            raise Broken(
                f"{LINEAGE}: format {lineage['format']}, this Tuneline knows {FORMAT}: use a newer one"
            )
        if lineage["artifact"] != manifest_id:
            raise Broken(f"{LINEAGE}: is that of {lineage['artifact']!s:.12}, not of {short(manifest_id)}")
        manifests = {i: Manifest.model_validate(m) for i, m in lineage["manifests"].items()}
        dossier = Dossier(
            id=manifest_id,
            manifest=manifest,
            manifests={**manifests, manifest_id: manifest},
            evaluations=tuple(lineage["evaluations"]),
            decisions=tuple(decisions),
            published=str(lineage["published"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Broken(f"{LINEAGE}: cannot be read as a lineage ({brief(error)})") from None
    missing = _unknown_parents(dossier)
    if missing:
        raise Broken(f"{LINEAGE}: the manifest of {', '.join(sorted(map(short, missing)))} is missing")
    recorded = manifests.get(manifest_id)
    if recorded is None or recorded.id != manifest_id:
        raise Broken(f"{LINEAGE}: the artifact's own manifest there is not {MANIFEST}")
    return dossier


def _unknown_parents(dossier: Dossier) -> set[str]:
    parents = {parent.id for manifest in dossier.manifests.values() for parent in manifest.parents}
    return (parents | set(dossier.evaluations)) - dossier.manifests.keys()


def _lineage_problems(dossier: Dossier) -> Iterator[str]:
    for known_as, manifest in dossier.manifests.items():
        if manifest.id != known_as:
            yield f"the manifest of {short(known_as)} has the digest {short(manifest.id)}"
    family = dossier.family()
    for evaluation in dossier.evaluations:
        if not is_about(dossier.manifests[evaluation], dossier, family):
            yield f"evaluation {short(evaluation)} did not measure this artifact"
    needed, waiting = set(), [dossier.id, *dossier.evaluations]
    for artifact_id in waiting:
        if artifact_id not in needed:
            needed.add(artifact_id)
            waiting += [parent.id for parent in dossier.manifests[artifact_id].parents]
    for stranger in sorted(dossier.manifests.keys() - needed):
        yield f"{short(stranger)} is not an ancestor of this artifact or of its evaluations"


def _decisions(dossier: Dossier) -> list[GateDecision]:
    try:
        return [GateDecision.model_validate(decision) for decision in dossier.decisions]
    except ValidationError as error:
        raise Broken(f"{DECISIONS}: cannot be read as gate decisions ({brief(error)})") from None


def _decision_problems(
    dossier: Dossier, decisions: Iterable[GateDecision], public_pem: bytes | None
) -> Iterator[str]:
    signer = None if public_pem is None else signing.fingerprint(public_pem)
    for decision in decisions:
        what = f"{DECISIONS}: decision {short(decision.id)}"
        if decision.candidate != dossier.id:
            yield f"{what} is about another artifact"
        if decision.content_digest != decision.id:
            yield f"{what} is not what its id says"
        if public_pem is not None and decision.signer == signer:
            signature = decision.signature or ""
            if not signing.verify(public_pem, signed_content(decision.id), signature):
                yield f"{what} was not signed by key {short(signer)}, which it names"


def _unchecked_decisions(decisions: Iterable[GateDecision], signer: str | None) -> Iterator[str]:
    for decision in decisions:
        if decision.signer is None:
            yield f"gate decision {short(decision.id)} is not signed by anybody"
        elif signer is not None and decision.signer != signer:
            yield (
                f"gate decision {short(decision.id)} is signed by key {short(decision.signer)}, which was "
                "not given: only whoever exported it vouches for it here"
            )


def _facts_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    if read_json(directory, FACTS) != facts(manifest):
        yield "differs from the manifest"


def _sbom_problems(directory: Path, dossier: Dossier) -> Iterator[str]:
    raw, expected = read(directory, SBOM), sbom.bill_of_materials(dossier)
    if raw == pretty(expected):  # which was checked against the schema when it was written
        return
    document = parsed(SBOM, raw)
    if (problem := sbom.schema_problem(raw.decode())) is not None:
        yield f"violates CycloneDX 1.6: {problem}"
    yield from _differences(sbom.claimed(document), sbom.claimed(expected))


def _card_problems(directory: Path, dossier: Dossier) -> Iterator[str]:
    card = model_card.parsed_front_matter(read(directory, CARD).decode())
    yield from _differences(card, model_card.front_matter(dossier))


def _differences(actual: JsonObject, expected: JsonObject) -> Iterator[str]:
    # Through JSON, where a tuple is a list: one side was read from a file.
    actual, expected = (json.loads(json.dumps(side, default=str)) for side in (actual, expected))
    for key in sorted(actual.keys() | expected.keys()):
        if actual.get(key) != expected.get(key):
            yield f"{key} differs from the manifest, the lineage or the evaluations"


def _signature_problems(directory: Path, public_key: Path | None) -> Iterator[str]:
    if public_key is None:
        if not (directory / SIGNATURE).is_file():
            yield f"{SIGNATURE}: missing: nothing shows who made this directory"
        return
    if (problem := signature_problem(directory, public_key)) is not None:
        yield f"{SIGNATURE}: {problem}"
        return
    present = {
        name for name in (MANIFEST, FACTS, LINEAGE, DECISIONS, SBOM, CARD) if (directory / name).exists()
    }
    for name in sorted(present - signed_names(directory)):
        yield f"{SIGNATURE}: does not cover {name}"
