"""The bill of materials of an export: CycloneDX 1.6 with the model card section.

`cyclonedx-python-lib` knows neither that section nor data components, so the document is built here from
plain values; the library checks it against the official schema, offline.
"""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from packageurl import PackageURL

from flows.exchange.dossier import Dossier, JsonObject, place
from flows.exchange.known_gaps import licence_of_base, not_measured
from flows.exchange.loading import hub_name
from flows.exchange.model_card import what
from flows.exchange.scores import scores
from registry.artifacts import BaseReference, Manifest, digest

if TYPE_CHECKING:
    from cyclonedx.validation.json import JsonStrictValidator

_TYPES = {"dataset": "data", "evaluation": "data"}
_SHAPES = {"tokenized_for", "evaluation_of"}
"""Relations that say what a dataset or an evaluation was made for, not what its content comes from."""


def bill_of_materials(dossier: Dossier) -> JsonObject:
    """The CycloneDX document as JSON values.

    The same dossier gives the same document: the serial number is derived from the content, the time is that
    of the artifact's publication.
    """
    others = {i: m for i, m in dossier.manifests.items() if i != dossier.id}
    libraries = _libraries(dossier.manifests.values())
    components = [*(_component(i, m, dossier) for i, m in sorted(others.items())), *_bare_base(dossier)]
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": dossier.published,
            "tools": {"components": [_tool()]},
            "component": _subject(dossier),
        },
        "components": [*components, *libraries],
        "dependencies": [
            {"ref": _ref(i), "dependsOn": sorted({_ref(p.id) for p in m.parents})}
            for i, m in sorted(dossier.manifests.items())
        ],
    }
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, digest(document)).urn
    return document


def claimed(document: Mapping[str, Any]) -> JsonObject:
    """What a document says about artifacts, their files, their origin and their scores, for a comparison.

    Raises KeyError, TypeError and AttributeError for a document of another shape.
    """
    subject = document["metadata"]["component"]
    parts = [subject, *(part for part in document["components"] if part["type"] != "library")]
    analysis = subject.get("modelCard", {}).get("quantitativeAnalysis", {})
    return {
        "subject": subject["bom-ref"],
        "artifacts": {part["bom-ref"]: _claimed_of(part) for part in parts},
        "parents": {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]},
        "scores": [
            (metric["type"], metric["value"], metric.get("confidenceInterval"))
            for metric in analysis.get("performanceMetrics", ())
        ],
    }


def _claimed_of(component: Mapping[str, Any]) -> JsonObject:
    return {
        "version": component["version"],
        "files": {file["name"]: file["hashes"] for file in component.get("components", ())},
        "properties": {entry["name"]: entry["value"] for entry in component["properties"]},
    }


def _ref(artifact_id: str) -> str:
    return f"artifact:{artifact_id}"


def _subject(dossier: Dossier) -> JsonObject:
    component = _component(dossier.id, dossier.manifest, dossier)
    parents = [
        {"type": _TYPES.get(m.kind, "machine-learning-model"), "name": _name(m), "version": i}
        for p in dossier.manifest.parents
        if p.relation not in _SHAPES
        for i, m in ((p.id, dossier.manifests[p.id]),)
    ]
    if parents:
        component["pedigree"] = {"ancestors": parents}
    if dossier.is_model:
        component["modelCard"] = _card(dossier)
    return component


def _component(artifact_id: str, manifest: Manifest, dossier: Dossier) -> JsonObject:
    is_subject = artifact_id == dossier.id
    component: dict[str, Any] = {
        "type": _TYPES.get(manifest.kind, "machine-learning-model"),
        "bom-ref": _ref(artifact_id),
        "name": _name(manifest),
        "version": manifest.base.revision if manifest.kind == "base" and manifest.base else artifact_id,
        "components": [
            {
                "type": "file",
                "name": place(name, dossier.is_model) if is_subject else name,
                "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
            }
            for name, entry in sorted(manifest.files.items())
        ],
        "properties": list(_properties(manifest)),
    }
    if manifest.kind == "base" and manifest.base is not None:
        component |= _origin(manifest.base)
    licence = licence_of_base(dossier) if manifest.kind == "base" else manifest.metrics.get("licence")
    if licence:
        component["licenses"] = [{"license": {"name": str(licence)}}]
    if manifest.kind == "dataset":
        rows = manifest.metrics.get("rows", {}).get("accepted")
        about = {"type": "dataset", "name": _name(manifest)}
        component["data"] = [{**about, "description": f"{rows} rows"} if rows is not None else about]
    return component


def _bare_base(dossier: Dossier) -> Iterator[JsonObject]:
    """The base as the manifest names it, where it is not an artifact of the lineage itself."""
    base = dossier.manifest.base
    if base is not None and not any(m.kind == "base" for m in dossier.manifests.values()):
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"base:{base.weights_digest}",
            "name": base.source,
            "version": base.revision,
            "properties": list(_base_properties(base)),
            **_origin(base),
        }


def _origin(base: BaseReference) -> JsonObject:
    """Where a base can be had: a package URL for what is on the hub, else nothing."""
    name = hub_name(base.source)
    if name is None:
        return {}
    namespace, _, model = name.rpartition("/")
    url = PackageURL("huggingface", namespace or None, model, base.revision.lower())
    return {"purl": url.to_string()}


def _properties(manifest: Manifest) -> Iterator[dict[str, str]]:
    yield from _named({"kind": manifest.kind, "stage": f"{manifest.stage} version {manifest.stage_version}"})
    if manifest.base is not None:
        yield from _base_properties(manifest.base)
    if manifest.quant is not None:
        quant = manifest.quant.model_dump(mode="json", exclude={"toolchain"}, exclude_none=True)
        yield from _named({f"quantization:{key}": value for key, value in quant.items()})


def _base_properties(base: BaseReference) -> Iterator[dict[str, str]]:
    return _named({f"base:{key}": value for key, value in base.model_dump().items()})


def _named(values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        yield {"name": f"tuneline:{key}", "value": text}


def _card(dossier: Dossier) -> JsonObject:
    """The section that CycloneDX calls the model card."""
    data = {**dossier.related("trained_on"), **dossier.related("calibrated_on")}
    data |= {row.dataset: dossier.manifests[row.dataset] for row in scores(dossier) if row.dataset}
    tuned = {"approach": {"type": "supervised"}} if dossier.made_by("train") else {}
    return {
        "modelParameters": {
            **tuned,
            "task": "text-generation",
            "architectureFamily": "transformer",
            "modelArchitecture": dossier.base.architecture,
            "datasets": [{"ref": _ref(i)} for i in sorted(data)],
            "inputs": [{"format": "string"}],
            "outputs": [{"format": "string"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(dossier))},
        "considerations": {"technicalLimitations": not_measured(dossier)},
    }


def _metrics(dossier: Dossier) -> Iterator[JsonObject]:
    for row in scores(dossier):
        metric: dict[str, Any] = {
            "type": f"{row.task} {row.metric}",
            "value": repr(row.value),
            "slice": f"{row.n} items; {row.measured_on}; {row.computed_with}; evaluation {row.evaluation}",
        }
        if row.low is not None and row.high is not None:
            metric["confidenceInterval"] = {"lowerBound": repr(row.low), "upperBound": repr(row.high)}
        yield metric


def _name(manifest: Manifest) -> str:
    if manifest.kind in {"dataset", "evaluation"}:
        source = str(manifest.config.get("source", "")).partition("@")[0]
        return source or manifest.kind
    if manifest.base is None or manifest.kind == "base":
        return manifest.base.source if manifest.base else manifest.kind
    return f"{manifest.base.source}: {what(manifest)}"


def _libraries(manifests: Iterable[Manifest]) -> list[JsonObject]:
    """The packages that did the work, each version once; nothing that the artifact needs to run."""
    used = {
        (name, version)
        for manifest in manifests
        for tools in (manifest.toolchain, manifest.quant.toolchain if manifest.quant else {})
        for name, version in tools.items()
        if version != "absent"
    }
    return [
        {
            "type": "library",
            "bom-ref": (url := PackageURL("pypi", None, name, version).to_string()),
            "name": name,
            "version": version,
            "scope": "excluded",
            "purl": url,
        }
        for name, version in sorted(used)
    ]


def _tool() -> dict[str, str]:
    return {"type": "application", "name": "tuneline", "version": importlib.metadata.version("tuneline")}


def schema_problem(text: str) -> str | None:
    """How a document violates CycloneDX 1.6, checked strictly against the official schema, or None."""
    problem = _validator().validate_str(text)
    return None if problem is None else str(problem).splitlines()[0]


@cache
def _validator() -> JsonStrictValidator:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6)
