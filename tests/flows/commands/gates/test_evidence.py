"""Which evaluations `tuneline gate` reads, and evidence in a registry that nobody may build on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert

from registry import Registry
from registry.db.tables import content_events
from tests.flows.commands.conftest import Run
from tests.flows.evaluation_files import BAD, GOOD, NF4, Lineage


def damage_results(registry: Registry, lineage: Lineage) -> None:
    file = registry.view(registry.evaluations(lineage.gguf.id)[-1].id) / "results.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b'"bytes": 100', b'"bytes": 999'))


def remove_samples(registry: Registry, lineage: Lineage) -> None:
    (made,) = registry.evaluations(lineage.gguf.id)
    entry, view = made.manifest.files["samples_heldout.jsonl"], registry.view(made.id)
    (registry.home / "blobs" / entry.sha256[:2] / entry.sha256).unlink()
    (view / "samples_heldout.jsonl").unlink()


def collect(registry: Registry, lineage: Lineage) -> None:
    with registry.database.write() as connection:
        event = {"artifact_id": lineage.gguf.id, "action": "collected", "bytes": 1, "at": "2026-11-22"}
        connection.execute(insert(content_events), event)


BROKEN: dict[str, tuple[Callable[[Lineage], object], str]] = {
    "its model was collected": (
        lambda found: (found.evaluate(found.gguf, GOOD), collect(found.registry, found)),
        "there is nothing left to serve",
    ),
    "never evaluated": (lambda found: None, "there is no evaluation of quantized"),
    "evaluation of another digest": (
        lambda found: found.evaluate(found.gguf, GOOD, subject=found.merged.id),
        "is an evaluation of",
    ),
    "measured in NF4": (
        lambda found: found.evaluate(found.gguf, GOOD, nf4=NF4),
        "it is served without NF4",
    ),
    "edited": (
        lambda found: (found.evaluate(found.gguf, GOOD), damage_results(found.registry, found)),
        "the registry recorded",
    ),
    "its samples are gone": (
        lambda found: (found.evaluate(found.gguf, GOOD), remove_samples(found.registry, found)),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_evidence_in_a_registry_is_invalid(
    registry: Registry, policy: Callable[..., str], run: Run, name: str
) -> None:
    made = Lineage(registry)
    made.evaluate(made.base, BAD)
    made.evaluate(made.merged, GOOD)
    BROKEN[name][0](made)
    code, said = run("gate", policy(), "--candidate", made.gguf.id, "--channel", "team/prod")
    assert (code, said["verdict"]) == (3, "invalid")
    assert BROKEN[name][1] in said["rules"][0]["sentence"]
    assert run("promote", made.gguf.id, "team/prod")[0] in {1, 3}
    assert registry.channels.get("team/prod") is None


def test_a_base_measured_in_another_nf4_setting_is_invalid(
    registry: Registry, policy: Callable[..., str], run: Run
) -> None:
    made = Lineage(registry)
    made.evaluate(made.base, BAD, nf4={**NF4, "double_quant": False})
    made.evaluate(made.merged, GOOD)
    made.evaluate(made.gguf, GOOD)
    code, said = run("gate", policy(), "--candidate", made.gguf.id, "--channel", "team/prod")
    assert code == 3
    assert "the quantized base: was measured with the NF4 setting" in said["rules"][0]["sentence"]
    made.evaluate(made.base, BAD)
    assert run("gate", policy(), "--candidate", made.gguf.id, "--channel", "team/prod")[0] == 0


def test_the_latest_evaluation_that_is_comparable_is_taken(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    lineage.evaluate(lineage.gguf, BAD, seed=1)  # newer, but nothing else was measured with that seed
    code, said = run("gate", policy(), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert (code, said["verdict"]) == (0, "pass")
    for model in (lineage.base, lineage.merged):
        lineage.evaluate(model, BAD if model == lineage.base else GOOD, seed=1)
    code, said = run("gate", policy(), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert (code, said["verdict"]) == (1, "fail"), "now the newest of each are alike"


def test_verified_evidence_finds_damage(lineage: Lineage, policy: Callable[..., str], run: Run) -> None:
    strict = policy(evidence={"verified": True, "lineage": True})
    gate = ("gate", strict, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert run(*gate)[0] == 0
    weights = lineage.registry.view(lineage.gguf.id) / "model.gguf"
    weights.chmod(0o644)
    weights.write_bytes(b"GGUF Q4_K_N")
    code, said = run(*gate)
    assert (code, "the candidate is damaged" in said["rules"][-1]["sentence"]) == (3, True)
