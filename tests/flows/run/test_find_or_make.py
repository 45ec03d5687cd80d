"""An artifact is made once for what it is made of, and says what that was."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.run.find_or_make import StageInputs, find_or_make, stage_inputs
from registry import Registry
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.leases import NO_WAIT
from stages.config.merge import MergeConfig
from stages.contract import Facts
from stages.merge import RELATIONS
from tests.flows.lineages import family

USE = ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 2.0)


def test_what_is_there_is_found_and_nothing_else_counts(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        made.append(draft.path)
        (draft.path / "number").write_text(str(len(made)))
        return Facts(kind="dataset", metrics={"rows": 3}), USE

    with Registry.open(tmp_path / "home") as registry:
        inputs = StageInputs("prepare", 1, {"seed": 1}, outside={"file": "a" * 64})
        artifact, use = find_or_make(registry, inputs, make, NO_WAIT)
        assert (use, len(made)) == (USE, 1)
        assert artifact.manifest.config == {"seed": 1}, "what is outside decides the key, and is not written"
        assert artifact.manifest.metrics == {"rows": 3}
        assert find_or_make(registry, inputs, make, NO_WAIT) == (artifact, None)
        other = StageInputs("prepare", 1, {"seed": 1}, outside={"file": "b" * 64})
        assert find_or_make(registry, other, make, NO_WAIT)[0].id != artifact.id
        assert len(made) == 2


def test_a_result_is_related_to_each_parent_as_its_verb_says(tmp_path: Path) -> None:
    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        (draft.path / "model.safetensors").write_text("merged")
        manifest = parents["base"].manifest
        return Facts(kind="merged", base=manifest.base, quant=manifest.quant), USE

    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        parents = {role: made[role] for role in RELATIONS}
        artifact, _ = find_or_make(registry, stage_inputs("merge", MergeConfig(), parents), make, NO_WAIT)
        related = {(parent.relation, parent.id) for parent in artifact.manifest.parents}
        assert related == {("merge", made["base"].id), ("merge", made["adapter"].id)}


def test_a_variants_own_packages_decide_its_key_alone() -> None:
    class WithPackage(MergeConfig):
        tools = ("no-such-package",)

    plain, other = (stage_inputs("merge", config, {}) for config in (MergeConfig(), WithPackage()))
    assert other.toolchain == {**plain.toolchain, "no-such-package": "absent"}
    assert other.key != plain.key


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    def make(draft: Draft) -> tuple[Facts, ResourceUse]:
        raise RuntimeError("the stage failed")

    with Registry.open(tmp_path / "home") as registry:
        inputs = StageInputs("prepare", 1, {})
        with pytest.raises(RuntimeError):
            find_or_make(registry, inputs, make, NO_WAIT)
        assert (registry.ls(), registry.find(inputs.key)) == ([], None)
