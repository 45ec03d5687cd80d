"""`tuneline gate`, `promote` and `channels`, from evaluations in a registry and on plain directories."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from sqlalchemy import insert

from flows import cli
from registry import Artifact, Registry, Waiver
from registry.artifacts import QuantSpec
from registry.channels.channels import Channel, Channels
from registry.db.tables import content_events
from registry.errors import Corrupt, GateRequired
from tests.flows.commands.conftest import Run
from tests.flows.evaluation_files import NF4, Lineage, evaluation, fidelity_task, parquet, question, write
from tests.flows.lineages import publish
from tests.seconds import seconds

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 20 + [0.0] * 80
POLICY: dict[str, Any] = {
    "tasks": [
        {"task": "heldout", "metric": "exact_match", "role": "improve", "against": "baseline", "margin": 0.1},
        {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "parent", "margin": 0.1},
        {"task": "heldout", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1},
    ]
}


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., str]:
    def make(name: str = "policy.yaml", **changes: Any) -> str:
        (tmp_path / name).write_text(yaml.safe_dump({**POLICY, **changes}))
        return str(tmp_path / name)

    return make


@pytest.fixture
def lineage(registry: Registry) -> Lineage:
    """A lineage whose base is bad and whose merged model and GGUF are good."""
    made = Lineage(registry)
    for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
        made.evaluate(model, scores)
    return made


def test_from_nothing_to_a_moved_channel(lineage: Lineage, policy: Callable[..., str], run: Run) -> None:
    file, candidate = policy(), lineage.gguf.id
    code, said = run("gate", file, "--candidate", candidate[:12], "--channel", "team/prod")
    assert (code, said["verdict"]) == (0, "pass")
    assert said["baseline"] == lineage.base.id, "an empty channel: the base takes the place of what is live"
    assert said["applied"]["tasks"][2]["against"] == "baseline"
    assert [rule["n"] for rule in said["rules"]] == [100, 100, 100]
    shown = run("gate", "show", said["id"][:8])[1]
    assert (shown["id"], shown["problem"]) == (said["id"], None)
    assert [rule["against"] for rule in shown["policy"]["tasks"]] == ["baseline", "parent", "live"], (
        "as written"
    )
    code, moved = run("promote", candidate, "team/prod")
    assert (code, moved["generation"], moved["decision"]) == (0, 1, said["id"])
    assert run("channels")[1][0]["artifact_id"] == candidate
    code, channel = run("channels", "show", "team/prod")
    assert channel["history"][0]["decision_id"] == said["id"]
    assert channel["policies"][0]["policy"] == shown["policy"], "taken over from the first decision"


def test_the_second_is_compared_with_what_the_channel_serves(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry
) -> None:
    file = policy()
    run("gate", file, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    run("promote", lineage.gguf.id, "team/prod")
    better = lineage.quantized("Q8_0")
    lineage.evaluate(better, GOOD)
    code, said = run("gate", "team/prod", "--candidate", better.id, "--baseline", "team/prod")
    assert (code, said["baseline"]) == (0, lineage.gguf.id)
    assert run("promote", better.id, "team/prod")[1]["generation"] == 2
    mixed = ("--baseline", lineage.gguf.id, "--channel", "team/prod")
    code, said = run("gate", file, "--candidate", better.id, *mixed)
    assert (code, "compares with what it serves: leave --baseline out" in said["error"]) == (3, True)
    worse = lineage.quantized("Q2_K")
    lineage.evaluate(worse, BAD)
    code, said = run("gate", file, "--candidate", worse.id, "--channel", "team/prod")
    assert (code, said["verdict"]) == (1, "fail")
    assert run("promote", worse.id, "team/prod")[0] == 1
    channel = registry.channels.get("team/prod")
    assert channel is not None
    assert channel.artifact_id == better.id
    stale = run("promote", lineage.gguf.id, "team/prod")
    assert stale[0] == 1
    assert "run the gate again against that one" in stale[1]["error"]


def test_a_channel_keeps_to_its_policy(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry
) -> None:
    strict = policy("strict.yaml", max_bytes=10)
    assert run("channels", "policy", "team/prod", "--set", strict)[0] == 3, "needs a reason"
    code, said = run("channels", "policy", "team/prod", "--set", strict, "--reason", "small machines")
    assert (code, said["reason"]) == (0, "small machines")
    easy = policy("easy.yaml")
    code, refused = run("gate", easy, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert code == 3
    assert "max_bytes: here none, channel 10" in refused["error"]
    assert "tuneline channels policy team/prod --set FILE --reason WHY" in refused["error"]
    code, passed = run("gate", easy, "--candidate", lineage.gguf.id, "--baseline", lineage.base.id)
    assert (code, passed["verdict"]) == (0, "pass"), "without a channel any policy may be tried"
    code, refused = run("promote", lineage.gguf.id, "team/prod", "--decision", passed["id"])
    assert code == 1
    assert "was made under the policy" in refused["error"]
    code, failed = run("gate", "team/prod", "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert (code, failed["rules"][3]["rule"]) == (1, "size")
    assert run("promote", lineage.gguf.id, "team/prod", "--waive")[0] == 3
    waived = ("--waive", "--reason", "tried by hand", "--who", "ada")
    assert run("promote", lineage.gguf.id, "team/prod", *waived)[0] == 0
    event = registry.channels.history("team/prod")[0]
    assert (event.reason, event.who, event.decision_id) == ("tried by hand", "ada", None)
    text = registry.channels.policy("team/prod")
    assert text is not None
    assert text.policy["max_bytes"] == 10


def test_a_printed_policy_can_be_set_again(
    lineage: Lineage, policy: Callable[..., str], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run("channels", "policy", "team/prod", "--set", policy(), "--reason", "first")
    assert cli.main(["channels", "policy", "team/prod"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    run("channels", "policy", "team/prod", "--set", str(tmp_path / "again.yaml"), "--reason", "second")
    assert len(run("channels", "show", "team/prod")[1]["policies"]) == 1, "the same policy is not set twice"
    assert run("channels", "policy", "team/none")[0] == 3


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE gate_decisions SET verdict = 'pass'", "changed after it was made"),
        ("UPDATE gate_decisions SET evidence = '{}'", "changed after it was made"),
        ("UPDATE gate_decisions SET signature = 'AAAA'", "a signature that does not match"),
        ("UPDATE gate_decisions SET signer = printf('%064d', 1)", "which is not trusted here"),
        ("UPDATE gate_decisions SET signer = NULL, signature = NULL", "is not signed"),
    ],
)
def test_a_forged_decision_moves_nothing(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry, statement: str, said: str
) -> None:
    scores = {"verdict": BAD}.get("verdict" if "verdict" in statement else "", GOOD)
    model = lineage.quantized("Q5_K_M")
    lineage.evaluate(model, scores)
    decision = run("gate", policy(), "--candidate", model.id, "--channel", "team/prod")[1]["id"]
    with registry.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER gate_decisions_no_update")
        connection.exec_driver_sql(statement)
    code, shown = run("gate", "show", decision)
    assert code == 4
    assert said in shown["problem"]
    with pytest.raises((Corrupt, GateRequired), match=said):
        registry.channels.move("team/prod", model.id, 0, decision_id=decision)
    assert registry.channels.get("team/prod") is None


def test_another_machines_decision_counts_once_its_key_is_trusted(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from registry.channels import signing

    theirs = signing.key_path(tmp_path / "ci", None)
    monkeypatch.setenv("TUNELINE_SIGNING_KEY", str(theirs))
    run("gate", policy(), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    monkeypatch.delenv("TUNELINE_SIGNING_KEY")
    code, refused = run("promote", lineage.gguf.id, "team/prod")
    assert (code, "which is not trusted here" in refused["error"]) == (4, True)
    trusted = tmp_path / "home" / "keys" / "trusted"
    trusted.mkdir(parents=True)
    (trusted / "ci.pem").write_bytes(signing.public_path(theirs).read_bytes())
    assert run("promote", lineage.gguf.id, "team/prod")[0] == 0


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


def test_items_in_the_training_data(registry: Registry, policy: Callable[..., str], run: Run) -> None:
    made = Lineage(registry, trained_on=("something else", question(5)))
    for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
        made.evaluate(model, scores)
    gate = ("gate", policy(contamination={"words": 8}), "--candidate", made.gguf.id, "--channel", "team/prod")
    code, said = run(*gate)
    assert (code, said["verdict"]) == (1, "fail")
    assert "1 of 100 items stand in the training data (2 rows" in said["rules"][-1]["sentence"]
    assert run(*gate, "--waive", "contamination")[0] == 3, "a waiver needs a reason and a name"
    code, said = run(*gate, "--waive", "contamination", "--reason", "known", "--who", "ada")
    assert (code, said["rules"][-1]["waived"]) == (0, {"reason": "known", "who": "ada"})
    assert run("promote", made.gguf.id, "team/prod")[0] == 0
    shown = run("gate", "show", said["id"])[1]
    assert shown["evidence"]["rules"][-1]["waived"]["who"] == "ada"


def test_fidelity_is_read_from_the_evaluation_against_the_parent(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    limits = policy(fidelity=[{"quant": "Q4_K_M", "kl_mean": 0.05}])
    gate = ("gate", limits, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    code, said = run(*gate)
    assert (code, "was not compared with its parent" in said["rules"][-1]["sentence"]) == (3, True)
    near = {"kl_mean": (0.01, 0.02, 0.03)}
    lineage.evaluate(lineage.gguf, GOOD, fidelity=fidelity_task("to base", lineage.base.id, **near))
    assert run(*gate)[0] == 3, "compared with the base, not with its parent"
    lineage.evaluate(lineage.gguf, GOOD, fidelity=fidelity_task("fidelity", lineage.merged.id, **near))
    assert run(*gate)[0] == 0
    far = {"kl_mean": (4.0, 4.5, 5.0)}
    lineage.evaluate(lineage.gguf, GOOD, fidelity=fidelity_task("to base", lineage.base.id, **far))
    assert run(*gate)[0] == 0, "a newer comparison with something else does not hide the one with the parent"


def test_verified_evidence_finds_damage(lineage: Lineage, policy: Callable[..., str], run: Run) -> None:
    strict = policy(evidence={"verified": True, "lineage": True})
    gate = ("gate", strict, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert run(*gate)[0] == 0
    weights = lineage.registry.view(lineage.gguf.id) / "model.gguf"
    weights.chmod(0o644)
    weights.write_bytes(b"GGUF Q4_K_N")
    code, said = run(*gate)
    assert (code, "the candidate is damaged" in said["rules"][-1]["sentence"]) == (3, True)


def test_a_lineage_that_is_not_known_is_invalid(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    tasks = [POLICY["tasks"][0]]
    orphan = publish(
        lineage.registry, "merged", "import", {"model.safetensors": b"from elsewhere"},
        base=lineage.base.manifest.base, quant=lineage.merged.manifest.quant,
    )  # fmt: skip
    lineage.evaluate(orphan, GOOD)
    gate = ("--candidate", orphan.id, "--baseline", lineage.base.id)
    assert run("gate", policy(tasks=tasks), *gate)[0] == 0, "the policy asks for no lineage"
    code, said = run("gate", policy(tasks=tasks, evidence={"lineage": True}), *gate)
    assert (code, said["rules"][-1]["rule"]) == (3, "evidence")
    for lacking in ("no base", "no adapter", "no training data"):
        assert lacking in said["rules"][-1]["sentence"]


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "never"))
    write(tmp_path / "candidate", evaluation(GOOD))
    write(tmp_path / "baseline", evaluation(BAD))
    return str(tmp_path / "candidate"), str(tmp_path / "baseline")


def test_plain_directories_need_no_registry(
    directories: tuple[str, str], policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    candidate, baseline = directories
    gate = ("gate", policy(), "--candidate", candidate, "--baseline", baseline)
    code, said = run(*gate)
    assert (code, "give its evaluation with --parent" in said["error"]) == (3, True)
    parent = str(write(tmp_path / "parent", evaluation(GOOD)))
    code, said = run(*gate, "--parent", parent)
    assert (code, said["verdict"], said["id"]) == (0, "pass", None)
    assert not (tmp_path / "never").exists()
    for asked in ({"lineage": True}, {"verified": True}):
        code, said = run("gate", policy(evidence=asked), *gate[2:], "--parent", parent)
        assert (code, "has no lineage and no digests" in said["rules"][-1]["sentence"]) == (3, True)
    code, said = run("gate", policy(contamination={}), *gate[2:], "--parent", parent)
    assert (code, "give them with --trained-on" in said["rules"][-1]["sentence"]) == (3, True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(parquet([question(1)]))
    trained = ("--parent", parent, "--trained-on", str(tmp_path / "data"))
    assert run("gate", policy(contamination={}), *gate[2:], *trained)[0] == 1
    (tmp_path / "data" / "train.parquet").write_bytes(b"no parquet")
    code, said = run("gate", policy(contamination={}), *gate[2:], *trained)
    assert (code, "expected the train.parquet of a prepared dataset" in said["error"]) == (3, True)


@pytest.fixture
def adapter(lineage: Lineage) -> Artifact:
    """An adapter that is good on the NF4 base of its training, where alone it was measured."""
    lineage.evaluate(lineage.adapter, GOOD)
    return lineage.adapter


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


def test_latency_comes_from_a_file_about_this_artifact(
    lineage: Lineage, policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    gate = ("gate", policy(max_latency_ms=200), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert run(*gate)[0] == 3
    file = tmp_path / "latency.json"
    cases = [
        ({"subject": lineage.gguf.id, "milliseconds": [100.0] * 80}, 0, ""),
        ({"subject": lineage.gguf.id, "milliseconds": [100.0] * 80 + [300.0] * 40}, 1, ""),
        ({"subject": lineage.gguf.id, "milliseconds": [100.0] * 20}, 2, ""),
        ({"subject": lineage.base.id, "milliseconds": [100.0] * 80}, 3, "was measured on"),
        ({"subject": lineage.gguf.id, "milliseconds": []}, 3, "at least one duration"),
        ({"subject": lineage.gguf.id, "milliseconds": [100, -1]}, 3, "finite and above 0"),
        ({"subject": lineage.gguf.id}, 3, "expected {"),
    ]
    for content, expected, words in cases:
        file.write_text(json.dumps(content))
        code, said = run(*gate, "--latency", str(file))
        assert code == expected, said
        assert words in said.get("error", "")


MISUSE = [
    (["--candidate", "{gguf}"], "give --baseline REF, or --channel"),
    (["--candidate", "{dataset}", "--channel", "a/b"], "is a dataset; a gate compares models"),
    (["--candidate", "{gguf}", "--baseline", "{gguf}", "--parent", "x"], "--parent is for directories"),
    (["--candidate", "{gguf}", "--baseline", "."], "expected two directories"),
    (["--candidate", "{gguf}", "--channel", "Bad"], "'Bad' is not a valid channel name"),
    (
        ["--candidate", "{gguf}", "--baseline", "suport/prod"],
        "serves nothing, so there is nothing to compare",
    ),
    (["--candidate", "nothing", "--channel", "a/b"], "no artifact or channel is called 'nothing'"),
]


@pytest.mark.parametrize(("words", "said"), MISUSE)
def test_arguments_that_do_not_fit(
    lineage: Lineage, policy: Callable[..., str], run: Run, words: list[str], said: str
) -> None:
    known = {"gguf": lineage.gguf.id, "dataset": lineage.dataset.id}
    code, found = run("gate", policy(), *(word.format(**known) for word in words))
    assert (code, said in found["error"]) == (3, True), found


def test_missing_arguments_do_not_look_like_missing_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["gate", "policy.yaml"])
    assert ended.value.code == 3
    assert "required: --candidate" in capsys.readouterr().err


def test_a_policy_file_is_checked_like_a_recipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "tasks:\n  - {task: t, metric: m, role: keep, agains: live, margin: 0.1}\n"
    )
    code, said = run("gate", "plan", str(tmp_path / "p.yaml"))
    assert code == 3
    assert "tasks.0.agains: unknown key; did you mean 'against'?" in said["error"]
    assert run("gate", "plan", str(tmp_path / "none.yaml"))[0] == 3


def test_plans(run: Run, policy: Callable[..., str], tmp_path: Path) -> None:
    margin = {"task": "t", "metric": "m", "against": "live"}
    tasks = [
        {**margin, "role": "keep", "margin": 0.02},
        {**margin, "role": "improve", "margin": 0.05},
        {**margin, "role": "keep", "margin": 0.1, "scores": "real"},
    ]
    file = policy(tasks=tasks)
    code, rows = run("gate", "plan", file, "--flip-rate", "0.04", "--items", "619", "--spread", "0.5")
    assert code == 0
    assert (rows[0]["items"], rows[0]["power"] > 0.8, rows[0]["power_with"] < 0.78) == (686, True, True)
    assert "needs at least that many flips" in rows[1]["note"]
    assert rows[2]["items"] == 155
    for wrong in (("--flip-rate", "4"), ("--flip-rate", "nan"), ("--items", "-5"), ("--spread", "0")):
        assert run("gate", "plan", file, *wrong)[0] == 3
    assert cli.main(["gate", "plan", file]) == 0


ADAPTED = "bfloat16 weights with transformers 5.19.0, with a LoRA adapter on cpu"


def test_a_directory_is_called_what_its_evaluation_recorded(
    policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    candidate = str(write(tmp_path / "candidate", evaluation(GOOD, computed_with=ADAPTED)))
    baseline = str(write(tmp_path / "baseline", evaluation(BAD, computed_with=ADAPTED)))
    unsaid = str(write(tmp_path / "unsaid", evaluation(GOOD)))
    gate = ("gate", policy(), "--candidate", candidate, "--baseline", baseline, "--parent", unsaid)
    code, said = run(*gate)
    assert code == 0
    first, second, third = (one["sentence"] for one in said["rules"])
    for sentence in (first, third):
        assert "against the given baseline (bfloat16 weights, with a LoRA adapter) on 100 paired" in sentence
    assert "against the given parent (how it was computed is not recorded) on 100 paired" in second
    assert "quantized base" not in str(said["rules"])
    assert "channel" not in str(said["rules"])
    code, said = run(*gate, "--quant", "Q4_K_M")
    assert (code, "evaluation says bfloat16 weights, with a LoRA adapter" in said["error"]) == (3, True)
    assert run(*gate, "--quant", "none")[0] == 0


def test_a_baseline_given_without_a_channel_is_not_called_the_channels(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    given = ("--candidate", lineage.gguf.id, "--baseline", lineage.merged.id)
    code, said = run("gate", policy(), *given)
    assert code == 0, said
    assert f"against {lineage.merged.id}, the given baseline on 100" in said["rules"][2]["sentence"]
    assert "channel" not in str(said["rules"])
    assert "against the quantized base on 100" in said["rules"][0]["sentence"]


def test_reports_for_ci(
    directories: tuple[str, str], policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    candidate, baseline = directories
    tasks = [POLICY["tasks"][0], {**POLICY["tasks"][2], "margin": 0.9}]
    xml, page = tmp_path / "junit.xml", tmp_path / "summary.md"
    for ceiling, code, failures in ((1000, 0, 0), (10, 1, 1)):
        file = policy(tasks=tasks, max_bytes=ceiling)
        found = run("gate", file, "--candidate", candidate, "--baseline", baseline,
                    "--junit", str(xml), "--markdown", str(page))  # fmt: skip
        assert found[0] == code
        suite = ElementTree.parse(xml).getroot()
        check_junit(suite)
        assert suite.get("failures") == str(failures)
        text = page.read_text()
        assert ("## Gate passed" in text) == (code == 0)
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in tables} == {7}
        assert "| size | 100 | – | – | – |" in text
    (tmp_path / "candidate" / "samples_heldout.jsonl").write_text("")
    assert run("gate", file, "--candidate", candidate, "--baseline", baseline, "--junit", str(xml))[0] == 3
    suite = ElementTree.parse(xml).getroot()
    check_junit(suite)
    assert suite.get("errors") == "2"
    unwritable = ("--junit", str(tmp_path / "no" / "junit.xml"))
    code, said = run("gate", file, "--candidate", candidate, "--baseline", baseline, *unwritable)
    assert (code, "cannot be written" in said["error"]) == (3, True)


NO_DECISION: list[tuple[list[str], str]] = [
    (["{policy}", "--candidate", "{candidate}", "--baseline", "nowhere"], "expected two directories"),
    (
        ["absent.yaml", "--candidate", "{candidate}", "--baseline", "{baseline}"],
        "'absent.yaml' is neither a YAML file",
    ),
    (["{broken}", "--candidate", "{candidate}", "--baseline", "{baseline}"], "tasks.0.metrik: unknown key"),
    (["{policy}", "--candidate", "abcdef", "--baseline", "abcdef"], "there is no registry in"),
    (["{policy}", "--candidate", "{candidate}", "--baseline", "{baseline}"], "give its evaluation with"),
    (
        ["{policy}", "--candidate", "{candidate}", "--baseline", "{baseline}", "--latency", "absent.json"],
        "--latency absent.json: expected",
    ),
]


@pytest.mark.parametrize(("words", "said"), NO_DECISION)
def test_reports_are_written_where_no_decision_comes_about(
    directories: tuple[str, str], policy: Callable[..., str], run: Run, tmp_path: Path, words: list[str],
    said: str,
) -> None:  # fmt: skip
    broken = policy("broken.yaml", tasks=[{**POLICY["tasks"][0], "metrik": 1}])
    known = {"policy": policy(), "broken": broken, "candidate": directories[0], "baseline": directories[1]}
    xml, page = tmp_path / "junit.xml", tmp_path / "summary.md"
    xml.write_text("of the run before")
    given = [word.format(**known) for word in words]
    code, found = run("gate", *given, "--junit", str(xml), "--markdown", str(page))
    assert (code, said in found["error"]) == (3, True), found
    suite = ElementTree.parse(xml).getroot()
    check_junit(suite)
    (case,) = suite.iter("testcase")
    error = case.find("error")
    assert error is not None
    assert said in error.get("message", "")
    assert suite.get("errors") == "1"
    assert page.read_text().startswith("## No decision\n")
    page.unlink()
    unwritable = ("--junit", str(tmp_path / "no" / "junit.xml"), "--markdown", str(page))
    code, found = run("gate", *given, *unwritable)
    assert (code, "cannot be written" in found["error"], page.is_file()) == (3, True, True)


def test_of_a_group_only_what_decides_is_a_failure(
    policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    group = {"task": "heldout", "role": "improve", "against": "baseline", "any_of": "either"}
    file = policy(tasks=[{**group, "metric": metric} for metric in ("f", "g")])
    base = str(write(tmp_path / "base", evaluation({"f": BAD, "g": GOOD})))
    for name, scores, code, failures in (("one", GOOD, 0, "0"), ("none", [0.0] * 100, 1, "2")):
        candidate = str(write(tmp_path / name, evaluation({"f": scores, "g": [0.0] * 100})))
        xml = tmp_path / f"{name}.xml"
        found = run("gate", file, "--candidate", candidate, "--baseline", base, "--junit", str(xml))
        assert found[0] == code, found
        suite = ElementTree.parse(xml).getroot()
        check_junit(suite)
        assert suite.get("failures") == failures


def check_junit(root: ElementTree.Element) -> None:
    """The shape that CI servers read (Jenkins' junit-10.xsd): elements, their order, attributes, counts."""
    assert root.tag == "testsuites"
    children = {"testsuites": {"testsuite"}, "testsuite": {"properties", "testcase"},
                "properties": {"property"}, "testcase": {"failure", "error", "system-out"}}  # fmt: skip
    needed = {
        "testsuite": {"name", "tests", "failures", "errors"},
        "testcase": {"name", "classname"},
        "property": {"name", "value"},
        "failure": {"message", "type"},
        "error": {"message", "type"},
    }
    for element in root.iter():
        assert {child.tag for child in element} <= children.get(element.tag, set())
        assert needed.get(element.tag, set()) <= set(element.keys())
    for counter in (root, *root.iter("testsuite")):
        assert int(counter.get("tests", "")) == len(list(counter.iter("testcase")))
        assert int(counter.get("failures", "")) == len(list(counter.iter("failure")))
        assert int(counter.get("errors", "")) == len(list(counter.iter("error")))
    assert all(len(case) == 1 for case in root.iter("testcase"))


def test_it_is_quick_and_loads_nothing_heavy(
    lineage: Lineage, policy: Callable[..., str], tmp_path: Path
) -> None:
    """1,500 items on four models, with contamination, in a process of its own."""
    rows = [1.0] * 1400 + [0.0] * 100
    for model in (lineage.base, lineage.merged, lineage.gguf):
        lineage.evaluate(model, rows[::-1] if model == lineage.base else rows, seed=3)
    file = policy(contamination={})
    code = (
        "import sys; from flows.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'prefect', 'lm_eval', 'datasets'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ("gate", file, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=seconds(60),
        env={**os.environ, "TUNELINE_HOME": str(lineage.registry.home)},
    )  # fmt: skip
    assert done.returncode in {0, 1, 2}, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # On a busy machine it also waits for a core, which is no work of its own.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_a_channel_that_moved_between_gate_and_promote_stays_where_it_is(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry
) -> None:
    """The decision is about what was live before; on another generation of the same artifact it counts."""
    waived = ("--waive", "--reason", "by hand", "--who", "ada")
    first, second, offered = (lineage.quantized(kind) for kind in ("Q8_0", "Q6_K", "Q5_K_M"))
    for model in (first, second, offered):
        lineage.evaluate(model, GOOD)
    assert run("promote", first.id, "team/prod", *waived)[1]["generation"] == 1
    gate = ("gate", policy(), "--candidate", offered.id, "--channel", "team/prod")
    code, decided = run(*gate)
    assert (code, decided["baseline"]) == (0, first.id)
    assert run("promote", second.id, "team/prod", *waived)[1]["generation"] == 2
    for named in ((), ("--decision", decided["id"])):
        code, refused = run("promote", offered.id, "team/prod", *named)
        assert (code, refused["exit_code"]) == (1, 1)
        assert refused["error"] == (
            f"channel team/prod cannot move to artifact {offered.id[:12]}: gate decision "
            f"{decided['id'][:12]} compares it with {first.id[:12]}, but the channel has {second.id[:12]} "
            "now; run the gate again against that one"
        )
    assert [event.artifact_id for event in registry.channels.history("team/prod")] == [first.id, second.id]
    code, again = run(*gate)
    assert (code, again["baseline"]) == (0, second.id)
    assert run("promote", offered.id, "team/prod")[1]["decision"] == again["id"]
    assert run("rollback", "team/prod", "--reason", "a trial")[0] == 0
    assert run("promote", offered.id, "team/prod")[1]["generation"] == 5, "back at what it was compared with"


@pytest.mark.parametrize("words", [(), ("--waive", "--reason", "by hand", "--who", "ada")])
def test_a_channel_that_moves_while_promote_reads_it(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry,
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...],
) -> None:  # fmt: skip
    """Somebody else is faster by a moment: nothing of theirs is overwritten, by a waiver neither."""
    run("gate", policy(), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    other, look = lineage.quantized("Q8_0"), Channels.get

    def then_moved(channels: Channels, name: str) -> Channel | None:
        found = look(channels, name)
        registry.channels.move(name, other.id, 0, waiver=Waiver("faster", "bob"))
        return found

    monkeypatch.setattr(Channels, "get", then_moved)
    code, refused = run("promote", lineage.gguf.id, "team/prod", *words)
    assert (code, refused["exit_code"]) == (1, 1)
    assert refused["error"].startswith("channel team/prod: expected generation 0, found generation 1")
    assert "it was moved meanwhile: look at its history, gate against its current" in refused["error"]
    assert [event.who for event in registry.channels.history("team/prod")] == ["bob"]
