"""All that the registry knows about one artifact, in the form in which an export carries it.

The model card and the SBOM are written from a dossier alone, so that whoever has the export's JSON files can
make them again and compare.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry import Artifact, Registry
from registry.artifacts import MODEL_KINDS, BaseReference, Manifest, Relation

CARD = "README.md"
SBOM = "sbom.cdx.json"
MANIFEST = "tuneline-manifest.json"
FACTS = "tuneline-facts.json"
LINEAGE = "lineage.json"
DECISIONS = "gate-decisions.json"
SIGNATURE = "model.sig"
ORIGINAL = "original"
"""Where a file of the artifact goes whose name the export needs itself."""


JsonObject = dict[str, Any]
"""Of a document whose format others define: CycloneDX's, and the front matter of Hugging Face's cards."""


@dataclass(frozen=True)
class Dossier:
    """An artifact, everything it came from, how it was evaluated and what gates said about it."""

    id: str
    manifest: Manifest
    manifests: Mapping[str, Manifest]
    """id → manifest of the artifact, of its evaluations, and of all ancestors of these."""
    evaluations: tuple[str, ...]
    """Ids of the evaluations of this very artifact, oldest first."""
    decisions: tuple[Mapping[str, Any], ...]
    """Gate decisions about it as JSON values, oldest first."""
    published: str
    """When it was published in the registry that exported it, ISO 8601."""

    @property
    def is_model(self) -> bool:
        """Whether it has weights, and so a model card."""
        return self.manifest.kind in MODEL_KINDS

    @property
    def base(self) -> BaseReference:
        """The base reference that every model carries."""
        if self.manifest.base is None:
            raise ValueError(f"a {self.manifest.kind} has no base reference")
        return self.manifest.base

    def ancestors(self) -> dict[str, Manifest]:
        """id → manifest of what the artifact was made from, nearest first."""
        manifests: dict[str, Manifest] = {}
        waiting = [self.id]
        for child in waiting:
            for parent in self.manifests[child].parents:
                if parent.id not in manifests:
                    manifests[parent.id] = self.manifests[parent.id]
                    waiting.append(parent.id)
        return manifests

    def family(self) -> dict[str, Manifest]:
        """The artifact itself, then its ancestors."""
        return {self.id: self.manifest, **self.ancestors()}

    def related(self, relation: Relation) -> dict[str, Manifest]:
        """What the artifact or one of its ancestors names as a parent under this relation."""
        return {
            parent.id: self.manifests[parent.id]
            for manifest in self.family().values()
            for parent in manifest.parents
            if parent.relation == relation
        }

    def made_by(self, stage: str) -> tuple[str, Manifest] | None:
        """The nearest of the artifact and its ancestors that this stage made."""
        return next(((i, m) for i, m in self.family().items() if m.stage == stage), None)


def gather(registry: Registry, ref: str) -> tuple[Artifact, Dossier]:
    """The artifact of a reference, and its dossier. Raises NotFound."""
    artifact = registry.get(ref)
    manifests = {artifact.id: artifact.manifest}
    _add_ancestors(registry, manifests, [artifact.manifest])
    above = frozenset(manifests)
    evaluations = [e for e in registry.evaluations(artifact.id) if is_about(e.manifest, artifact, above)]
    manifests.update({e.id: e.manifest for e in evaluations})
    _add_ancestors(registry, manifests, [e.manifest for e in evaluations])
    return artifact, Dossier(
        id=artifact.id,
        manifest=artifact.manifest,
        manifests=manifests,
        evaluations=tuple(e.id for e in evaluations),
        decisions=tuple(d.model_dump(mode="json") for d in registry.gates.about(artifact.id)),
        published=artifact.created.isoformat(),
    )


def is_about(evaluation: Manifest, artifact: Artifact | Dossier, family: Iterable[str]) -> bool:
    """Whether an evaluation measured this artifact, and not something that was only made with it.

    An adapter is measured on its base, or on a quantized one, and such an evaluation names both: it is about
    the adapter. Of anything else, all that was measured is in its `family` (it and its ancestors).
    """
    measured = {p.id for p in evaluation.parents if p.relation == "evaluation_of"}
    return artifact.id in measured and (artifact.manifest.kind == "adapter" or measured <= set(family))


def place(name: str, is_model: bool) -> str:
    """Where a file of the artifact stands in its export: under its name, unless the export needs that."""
    taken = {ORIGINAL, SBOM, MANIFEST, FACTS, LINEAGE, DECISIONS, SIGNATURE} | ({CARD} if is_model else set())
    first = unicodedata.normalize("NFKC", name.partition("/")[0]).casefold()
    return f"{ORIGINAL}/{name}" if first in {reserved.casefold() for reserved in taken} else name


def _add_ancestors(registry: Registry, known: dict[str, Manifest], waiting: list[Manifest]) -> None:
    for manifest in waiting:
        for parent in manifest.parents:
            if parent.id not in known:
                known[parent.id] = registry.get(parent.id).manifest
                waiting.append(known[parent.id])
