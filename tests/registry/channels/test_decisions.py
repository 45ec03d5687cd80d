from __future__ import annotations

from collections.abc import Callable

import pytest

from registry import Artifact, Registry
from registry.channels import signing
from registry.errors import InvalidArtifact, NotFound
from tests.registry.backends import only

pytestmark = only("local")  # rows only: where the files are makes no difference

Publish = Callable[..., Artifact]


def test_a_decision_is_read_back_whole(registry: Registry, publish: Publish) -> None:
    one, two = publish(registry, "one"), publish(registry, "two")
    policy, evidence = {"margin": 0.02}, {"n": 400, "p": 0.008, "items": [1, 2]}
    made = registry.gates.record(two.id, one.id, policy, "pass", evidence)
    decision = registry.gates.get(made)
    assert (decision.candidate, decision.baseline, decision.verdict) == (two.id, one.id, "pass")
    assert (decision.policy, decision.evidence) == (policy, evidence)
    assert registry.gates.latest(two.id) == decision
    assert registry.gates.latest(one.id) is None


def test_an_id_is_the_digest_of_all_that_was_decided(registry: Registry, publish: Publish) -> None:
    one, two = publish(registry, "one").id, publish(registry, "two").id
    record = registry.gates.record
    ids = [
        record(one, None, {}, "pass", {}),
        record(one, two, {}, "pass", {}),
        record(two, None, {}, "pass", {}),
        record(one, None, {"a": 1}, "pass", {}),
        record(one, None, {}, "fail", {}),
        record(one, None, {}, "pass", {"a": 1}),
    ]
    assert len(set(ids)) == 6
    assert record(one, None, {}, "pass", {"a": 1}) == ids[5]
    latest = registry.gates.latest(one)
    assert latest is not None
    assert latest.id == ids[5]


def test_what_is_decided_again_after_something_else_is_the_latest(
    registry: Registry, publish: Publish
) -> None:
    one = publish(registry, "one").id
    record = registry.gates.record
    passed = record(one, None, {}, "pass", {"n": 1})
    assert record(one, None, {}, "pass", {"n": 1}) == passed
    invalid = record(one, None, {}, "invalid", {"n": 0})
    again = record(one, None, {}, "pass", {"n": 1})
    assert record(one, None, {}, "pass", {"n": 1}) == again
    latest = registry.gates.latest(one)
    assert latest is not None
    assert (latest.id, latest.verdict) == (again, "pass")
    assert latest.evidence == {"n": 1, "decided_again_after": invalid}
    assert registry.gates.problem(latest) is None
    assert registry.channels.move("team/prod", one, 0, decision_id=again).artifact_id == one
    third = record(one, None, {}, "invalid", {"n": 0})
    assert len({passed, invalid, again, third}) == 4
    assert [decision.id for decision in registry.gates.about(one)] == [passed, invalid, again, third]


def test_what_is_no_decision_is_refused(registry: Registry, publish: Publish) -> None:
    one = publish(registry, "one").id
    with pytest.raises(InvalidArtifact, match="expected one of pass, fail, insufficient, invalid"):
        registry.gates.record(one, None, {}, "maybe", {})  # type: ignore[arg-type]
    with pytest.raises(InvalidArtifact, match="finite JSON"):
        registry.gates.record(one, None, {}, "pass", {"p": float("nan")})
    with pytest.raises(InvalidArtifact, match="finite JSON"):
        registry.gates.record(one, None, {"margin": float("inf")}, "pass", {})
    with pytest.raises(NotFound):
        registry.gates.record("f" * 64, None, {}, "pass", {})
    with pytest.raises(NotFound):
        registry.gates.record(one, "f" * 64, {}, "pass", {})
    with pytest.raises(NotFound, match="no gate decision"):
        registry.gates.get("f" * 64)


def test_a_decision_is_found_by_its_first_digits(registry: Registry, publish: Publish) -> None:
    one = publish(registry, "one").id
    made = registry.gates.record(one, None, {}, "pass", {})
    assert registry.gates.resolve(made[:6]) == registry.gates.resolve(made) == registry.gates.get(made)
    for ref in ("", made[:5], "zzzzzz", "f" * 64, "%" * 8):
        with pytest.raises(NotFound, match="no gate decision"):
            registry.gates.resolve(ref)


def test_a_decision_is_signed_by_the_registrys_key(registry: Registry, publish: Publish) -> None:
    one = publish(registry, "one").id
    decision = registry.gates.get(registry.gates.record(one, None, {}, "pass", {}))
    assert decision.signer == signing.fingerprint((registry.home / "keys" / "signing.pub.pem").read_bytes())
    assert registry.gates.problem(decision) is None
    changed = decision.model_copy(update={"verdict": "fail"})
    assert "was changed after it was made" in str(registry.gates.problem(changed))
    assert "is not signed" in str(registry.gates.problem(decision.model_copy(update={"signer": None})))
