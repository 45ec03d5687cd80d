"""Channels and `tuneline promote`: their policies, forged decisions, and who was faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import cli
from registry import Registry, Waiver
from registry.channels.channels import Channel, Channels
from registry.errors import Corrupt, GateRequired
from tests.flows.commands.conftest import Run
from tests.flows.evaluation_files import BAD, GOOD, Lineage


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


def test_a_channel_s_policies_and_moves_are_shown_in_the_order_of_time(
    lineage: Lineage, policy: Callable[..., str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("channels", "policy", "team/prod", "--set", policy(max_bytes=10), "--reason", "first")
    run("promote", lineage.gguf.id, "team/prod", "--waive", "--reason", "by hand", "--who", "ada")
    run("channels", "policy", "team/prod", "--set", policy(), "--reason", "second")
    assert cli.main(["channels", "show", "team/prod"]) == 0
    changes = capsys.readouterr().out.splitlines()[1:]
    assert [line.rpartition(": ")[2] for line in changes] == ["first", "by hand", "second"]


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
