from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from flows.exchange.dossier import Dossier, gather
from flows.exchange.sbom import bill_of_materials, schema_problem
from registry import Artifact, Registry
from tests.flows.lineages import MODELS, evaluate, family


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.open(tmp_path_factory.mktemp("sboms")) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(registry: Registry) -> dict[str, Artifact]:
    return family(registry)


def dossier(registry: Registry, artifact: Artifact) -> Dossier:
    return gather(registry, artifact.id)[1]


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in component["properties"]}


@pytest.mark.parametrize("name", [*MODELS, "dataset", "merged evaluation"])
def test_every_kind_obeys_the_official_schema(
    registry: Registry, made: dict[str, Artifact], name: str
) -> None:
    document = bill_of_materials(dossier(registry, made[name]))
    assert schema_problem(json.dumps(document)) is None
    references = [part["bom-ref"] for part in document["components"]]
    references.append(document["metadata"]["component"]["bom-ref"])
    assert len(set(references)) == len(references)
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(references)


def test_the_schema_is_strict(registry: Registry, made: dict[str, Artifact]) -> None:
    document = bill_of_materials(dossier(registry, made["gguf"]))
    document["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "guesswork"
    assert "guesswork" in str(schema_problem(json.dumps(document)))


@pytest.mark.parametrize("name", MODELS)
def test_the_model_card_section(registry: Registry, made: dict[str, Artifact], name: str) -> None:
    subject = bill_of_materials(dossier(registry, made[name]))["metadata"]["component"]
    assert subject["type"] == "machine-learning-model"
    card = subject["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    assert ("approach" in card["modelParameters"]) == (name != "base")
    assert card["modelParameters"]["datasets"] == [{"ref": f"artifact:{made['dataset'].id}"}]
    (metric,) = card["quantitativeAnalysis"]["performanceMetrics"]
    assert (metric["type"], metric["value"]) == ("routing exact_match", "0.625")
    assert metric["confidenceInterval"] == {"lowerBound": "0.5", "upperBound": "0.75"}
    assert "231 items" in metric["slice"]
    assert made[f"{name} evaluation"].id in metric["slice"]
    assert any("Safety" in said for said in card["considerations"]["technicalLimitations"])


def test_files_base_tools_and_ancestors(registry: Registry, made: dict[str, Artifact]) -> None:
    document = bill_of_materials(dossier(registry, made["gguf"]))
    subject = document["metadata"]["component"]
    hashes = {file["name"]: file["hashes"][0]["content"] for file in subject["components"]}
    assert hashes == {name: entry.sha256 for name, entry in made["gguf"].manifest.files.items()}
    assert properties(subject)["tuneline:quantization:requested"] == '{"method": "gguf", "type": "Q8_0"}'
    assert [a["version"] for a in subject["pedigree"]["ancestors"]] == [made["merged"].id]
    parts = {part["bom-ref"]: part for part in document["components"]}
    base = parts[f"artifact:{made['base'].id}"]
    assert base["version"] == "a" * 40
    assert PackageURL.from_string(base["purl"]).to_dict() == {
        "type": "huggingface", "namespace": "acme", "name": "Tiny-1B", "version": "a" * 40,
        "qualifiers": None, "subpath": None,
    }  # fmt: skip
    assert {file["name"] for file in base["components"]} == {"config.json", "model.safetensors"}
    assert properties(base)["tuneline:base:weights_digest"] == made["gguf"].manifest.base.weights_digest  # type: ignore[union-attr]
    data = parts[f"artifact:{made['dataset'].id}"]
    assert (data["type"], data["data"][0]["type"]) == ("data", "dataset")
    assert data["licenses"] == [{"license": {"name": "BSD License"}}]
    libraries = {part["purl"] for part in parts.values() if part["type"] == "library"}
    assert libraries == {"pkg:pypi/torch@2.13.0", "pkg:pypi/peft@0.21.2"}


def test_a_base_that_is_no_artifact_is_a_component_all_the_same(
    registry: Registry, made: dict[str, Artifact]
) -> None:
    known = dossier(registry, made["merged"])
    orphan = known.manifest.model_copy(update={"parents": ()})
    alone = Dossier(orphan.id, orphan, {orphan.id: orphan}, (), (), known.published)
    document = bill_of_materials(alone)
    assert schema_problem(json.dumps(document)) is None
    (base,) = [part for part in document["components"] if part["type"] == "machine-learning-model"]
    assert (base["version"], base["name"]) == ("a" * 40, "hub:acme/Tiny-1B")


def test_the_same_artifact_gives_the_same_document(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        made = family(registry)
        first = bill_of_materials(dossier(registry, made["merged"]))
        assert bill_of_materials(dossier(registry, made["merged"])) == first
        evaluate(registry, made["merged"], made["dataset"], value=0.75)
        later = bill_of_materials(dossier(registry, made["merged"]))
    assert later["serialNumber"] != first["serialNumber"]
    assert later["metadata"]["timestamp"] == first["metadata"]["timestamp"]
