"""An adapter at the gate: judged as vLLM serves it, compared with what was trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flows import cli
from registry import Artifact, Waiver
from registry.artifacts import QuantSpec
from tests.flows.commands.conftest import Run
from tests.flows.evaluation_files import GOOD, NF4, POLICY, Lineage, fidelity_task
from tests.flows.lineages import publish


def test_an_adapter_is_judged_as_vllm_serves_it(
    lineage: Lineage, adapter: Artifact, policy: Callable[..., str], run: Run
) -> None:
    stored = lineage.evaluate(adapter, [1.0] * 88 + [0.0] * 12, nf4=None)
    again = lineage.evaluate(adapter, [1.0] * 91 + [0.0] * 9)
    assert lineage.registry.evaluations(adapter.id)[-1].id == again.id, "the newer one is of the NF4 base"
    gate = ("gate", policy(), "--channel", "team/prod", "--candidate")
    code, said = run(*gate, adapter.id)
    assert (code, said["evaluations"]["candidate"], said["notes"]) == (0, stored.id, [])
    assert said["evaluations"]["parent"] == again.id
    assert [rule["effect"] for rule in said["rules"]] == pytest.approx([0.68, -0.03, 0.68])
    assert run("promote", adapter.id, "team/prod")[1]["notes"] == []
    code, said = run(*gate, again.id)
    assert (code, said["verdict"]) == (3, "invalid")
    assert "it is served without NF4" in said["rules"][0]["sentence"]


def test_an_adapter_that_is_live_is_compared_as_vllm_serves_it(
    lineage: Lineage, adapter: Artifact, policy: Callable[..., str], run: Run
) -> None:
    stored = lineage.evaluate(adapter, GOOD, nf4=None)
    lineage.registry.channels.move("team/prod", adapter.id, 0, waiver=Waiver("a test", "tests"))
    code, said = run("gate", policy(), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert (code, said["evaluations"]["live"], said["notes"]) == (0, stored.id, [])


def test_an_adapter_that_was_measured_on_nf4_alone_is_said_to_be(
    lineage: Lineage, adapter: Artifact, policy: Callable[..., str], run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    gate = ("--candidate", adapter.id, "--channel", "team/prod")
    code, said = run("gate", policy(tasks=POLICY["tasks"][:1]), *gate)
    (note,) = said["notes"]
    assert (code, f"adapter {adapter.id[:12]} was measured only on the NF4 base" in note) == (0, True)
    assert cli.main(["promote", adapter.id, "team/prod"]) == 0
    assert f"note: {note}" in capsys.readouterr().err
    code, said = run("gate", policy("all.yaml"), "--candidate", adapter.id, "--baseline", lineage.base.id)
    against_itself = said["rules"][1]
    assert (code, against_itself["verdict"]) == (3, "invalid")
    assert "there is no evaluation of what it was made from" in against_itself["sentence"]


def test_an_adapter_from_elsewhere_is_compared_with_itself_on_nf4(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    """Nobody wrote down how it was trained."""
    foreign = publish(
        lineage.registry, "adapter", "import", {"adapter_model.safetensors": b"from elsewhere"},
        (("adapter", lineage.base),), base=lineage.base.manifest.base, quant=QuantSpec(method="none"),
    )  # fmt: skip
    nf4 = lineage.evaluate(foreign, GOOD, nf4=NF4)
    for right in (85, 86):
        newest = lineage.evaluate(foreign, [1.0] * right + [0.0] * (100 - right), nf4=None)
    code, said = run("gate", policy(), "--candidate", foreign.id, "--channel", "team/prod")
    assert (said["evaluations"]["candidate"], said["evaluations"]["parent"]) == (newest.id, nf4.id)
    assert code == 0, said["rules"]


def test_the_limits_of_an_adapter_over_16_bits_are_those_of_no_quantization(
    lineage: Lineage, adapter: Artifact, policy: Callable[..., str], run: Run
) -> None:
    near = fidelity_task("fidelity", adapter.id, kl_mean=(0.01, 0.02, 0.03))
    lineage.evaluate(adapter, GOOD, nf4=None, fidelity=near)
    limits = [{"quant": "none", "kl_mean": 0.05}]
    code, said = run("gate", policy(fidelity=limits), "--candidate", adapter.id, "--channel", "team/prod")
    assert (code, said["rules"][-1]["rule"]) == (0, "fidelity/kl_mean")
    assert "for none on 64 chats" in said["rules"][-1]["sentence"]
