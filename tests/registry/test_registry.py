from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from registry import Artifact, Edge, Registry, Waiver
from registry.artifacts import BaseReference, Parentage, QuantSpec
from registry.db import triggers
from registry.db.tables import artifacts
from registry.errors import InvalidArtifact, NotFound
from tests.registry.backends import Backend, Backends, only

Publish = Callable[..., Artifact]


def test_what_was_published_is_read_back_whole(
    registry: Registry, backend: Backend, publish: Publish, base: BaseReference
) -> None:
    dataset = publish(registry, "data")
    quant = QuantSpec(
        method="gptq", requested={"bits": 4}, effective={"bits_per_weight": 4.25},
        calibration_dataset=dataset.id, merge_base="nf4", toolchain={"gptqmodel": "7.6.0"},
    )  # fmt: skip
    relations = (Parentage(relation="calibrated_on", id=dataset.id),)
    made = publish(
        registry, "model", kind="quantized", stage="quantize", stage_version=3, config={"bits": 4},
        base=base, quant=quant, metrics={"size": 1}, parents=relations, toolchain={"torch": "2"},
    )  # fmt: skip
    with backend.open() as again:
        found = again.get(made.id)
    assert found == made
    assert found.manifest.base == base
    assert found.manifest.quant == quant
    assert found.manifest.parents == relations
    assert found.created.tzinfo is not None
    with registry.database.read() as connection:
        row = connection.execute(select(artifacts).where(artifacts.c.id == made.id)).one()
    assert (row.base_revision, row.base_embedding_rows) == (base.revision, base.embedding_rows)
    assert (row.quant_method, row.quant_effective) == ("gptq", '{"bits_per_weight":4.25}')
    assert (row.quant_calibration_dataset, row.quant_merge_base) == (dataset.id, "nf4")
    assert registry.verify(made.id) == []


def test_verify_finds_a_record_that_was_changed(registry: Registry, publish: Publish) -> None:
    child = publish(
        registry, "child", parents=(Parentage(relation="trained_on", id=publish(registry, "p").id),)
    )
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.exec_driver_sql(
            "UPDATE artifacts SET stage_version = 2, "
            """manifest = replace(manifest, '"config":{}', '"config":{"a":1}')"""
        )
        connection.exec_driver_sql("DELETE FROM edges")
    details = [problem.detail for problem in registry.verify(child.id) if problem.kind == "record"]
    assert len(details) == 3
    assert any("the manifest's digest is" in detail for detail in details)
    assert any("column stage_version is 2, the manifest says 1" in detail for detail in details)
    assert any("parents" in detail for detail in details)


def test_every_kind_of_reference(registry: Registry, publish: Publish) -> None:
    one = publish(registry, "one")
    registry.name(one.id, "support-data")
    registry.channels.move("support/prod", one.id, 0, waiver=Waiver("start", "me"))
    named = registry.get(one.id)
    assert (named.name, named.version) == ("support-data", 1)
    for ref in (one.id[:6], one.id[:40], "support-data@1", "support/prod"):
        assert registry.get(ref) == named


def test_what_is_not_there_names_what_comes_near(registry: Registry, publish: Publish) -> None:
    one = publish(registry, "one")
    registry.name(one.id, "support-data")
    registry.channels.move("support/prod", one.id, 0, waiver=Waiver("start", "me"))
    for ref, near in [
        ("suport-data@1", "support-data@1"),
        ("support-data@7", "support-data@1"),
        ("support/prd", "support/prod"),
        (one.id[:8] + ("0" if one.id[8] != "0" else "1") + "0", one.id[:12]),
    ]:
        with pytest.raises(NotFound, match=f"no artifact or channel is called '{ref}'.*near: .*{near}"):
            registry.get(ref)
    for ref in ("", "abc", "%", "______", one.id.upper(), one.id + "0", "x@", "@1", "a@99999999999999999999"):
        with pytest.raises(NotFound):
            registry.get(ref)


def test_an_ambiguous_prefix_lists_its_matches(registry: Registry, publish: Publish) -> None:
    one = publish(registry, "one")
    with registry.database.write() as connection:
        row = connection.execute(select(artifacts)).one()._asdict()
        twin = one.id[:-1] + ("0" if one.id[-1] != "0" else "1")
        connection.execute(artifacts.insert(), {**row, "sequence": 2, "id": twin})
    with pytest.raises(NotFound, match="ambiguous"):
        registry.get(one.id[:10])
    assert registry.get(one.id).id == one.id


@pytest.mark.parametrize("method", ["view", "verify", "lineage"])
def test_an_unknown_id_is_said_to_be_unknown(registry: Registry, method: str) -> None:
    with pytest.raises(NotFound, match="no artifact"):
        getattr(registry, method)("f" * 64)


@only("local")
@pytest.mark.parametrize("bad", ["../../x", "Ünï", "", "a@b", "team/x", "A", "x" * 101])
def test_names_are_plain(registry: Registry, publish: Publish, bad: str) -> None:
    with pytest.raises(InvalidArtifact, match="is not a valid artifact name"):
        registry.name(publish(registry, "one").id, bad)


def test_versions_have_no_gaps(registry: Registry, publish: Publish) -> None:
    made = [publish(registry, str(number)) for number in range(4)]
    assert [registry.name(artifact.id, "data") for artifact in made[:3]] == [1, 2, 3]
    assert registry.name(made[0].id, "data") == 1, "it has that name already"
    with pytest.raises(NotFound):
        registry.name("f" * 64, "data")
    assert registry.name(made[3].id, "data") == 4
    assert registry.name(made[3].id, "other") == 1
    assert (registry.get(made[3].id).name, registry.get(made[3].id).version) == ("other", 1)


def test_pages_are_newest_first_and_complete(
    registry: Registry, publish: Publish, base: BaseReference
) -> None:
    made = [publish(registry, str(number)) for number in range(5)]
    model = publish(registry, "m", kind="base", base=base, quant=QuantSpec(method="none"))
    newest = [artifact.id for artifact in [*made, model]][::-1]
    assert [a.id for a in registry.ls()] == newest
    assert [a.id for a in registry.ls("base")] == [model.id]
    pages, after = [], None
    while page := registry.ls("dataset", limit=2, after=after):
        pages.append([a.id for a in page])
        after = page[-1].id
    assert pages == [newest[1:3], newest[3:5], newest[5:]]


@only("local")
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lineage_is_everything_above(data: st.DataObject, new_backend: Backends, publish: Publish) -> None:
    count = data.draw(st.integers(1, 8))
    above: dict[int, set[int]] = {}
    with new_backend().open() as registry:
        made: list[Artifact] = []
        for number in range(count):
            chosen = data.draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
            relations = tuple(Parentage(relation="trained_on", id=made[p].id) for p in sorted(chosen))
            made.append(publish(registry, str(number), parents=relations))
            above[number] = chosen
        for number in range(count):
            reached, waiting = set(), [number]
            while waiting:
                one = waiting.pop()
                for parent in above[one]:
                    reached.add(Edge(child=made[one].id, relation="trained_on", parent=made[parent].id))
                    waiting.append(parent)
            edges = registry.lineage(made[number].id)
            assert len(edges) == len(set(edges))
            assert set(edges) == reached
            known = {made[number].id}
            for edge in edges:
                assert edge.child in known, "nearest first"
                known.add(edge.parent)
