"""The documents that an export holds beside the artifact's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flows.exchange.dossier import CARD, DECISIONS, FACTS, LINEAGE, MANIFEST, SBOM, Dossier, JsonObject
from flows.exchange.model_card import model_card
from flows.exchange.sbom import bill_of_materials
from registry.artifacts import Manifest, canonical

FORMAT = 1
"""Of the JSON documents; a verifier refuses a higher one."""


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


def facts(manifest: Manifest) -> JsonObject:
    """What the commands that work on plain directories read: a stage's facts."""
    tree = manifest.model_dump(mode="json")
    return {
        "kind": tree["kind"],
        "relations": tree["parents"],
        "base": tree["base"],
        "quant": tree["quant"],
        "metrics": tree["metrics"],
    }


def pretty(value: Mapping[str, Any] | list[Any]) -> bytes:
    """JSON as the documents of an export are written."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
