"""`tuneline tenants`, `channels rollout` and `channels outcomes`."""

from __future__ import annotations

import getpass
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry import Registry, Waiver
from registry.db import triggers
from registry.tenancy.outcomes import Outcome
from registry.tenancy.tenants import key_digest
from tests.flows.commands.conftest import Run, Say
from tests.flows.evaluation_files import BAD, GOOD, POLICY, Lineage

KEY = re.compile(r"tl-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")


@pytest.fixture
def lineage(registry: Registry) -> Lineage:
    """A channel team/prod that points to the merged model."""
    made = Lineage(registry)
    for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
        made.evaluate(model, scores)
    registry.channels.move("team/prod", made.merged.id, 0, waiver=Waiver("start", "me"))
    return made


def test_a_key_is_printed_once(registry: Registry, say: Say, run: Run) -> None:
    code, out, _ = say("tenants", "add", "acme", "team/prod", "--requests-per-minute", "60", "--pinned")
    found = KEY.search(out)
    assert code == 0
    assert found is not None
    assert "This key is not shown again" in out
    assert list(registry.serving_state().keys) == [key_digest(found[0])]
    for words in (("show", "acme"), ("ls",), ("audit",), ("audit", "acme"), ("set", "acme", "--no-pinned")):
        for text in (say("tenants", *words)[1], json.dumps(run("tenants", *words)[1])):
            assert "acme" in text
            assert not KEY.search(text)
            assert key_digest(found[0]) not in text
            assert registry.tenants.get("acme").salt not in text
    assert [event.who for event in registry.tenants.audit()] == [getpass.getuser()] * 2


def test_a_tenant_from_add_to_revoke(registry: Registry, say: Say, run: Run) -> None:
    code, made = run("tenants", "add", "acme", "team/prod", "--tokens-per-day", "1000", "--who", "ada")
    assert (code, made["tenant"]["limits"]["tokens_per_day"], made["tenant"]["pinned"]) == (0, 1000, False)
    assert list(registry.serving_state().keys) == [key_digest(made["key"])]
    first = made["record"]["id"]
    assert (made["record"]["tenant"], KEY.fullmatch(made["key"])[1]) == ("acme", first)  # type: ignore[index]
    code, changed = run(
        "tenants", "set", "acme", "--concurrency", "4", "--tokens-per-day", "none", "--channel", "team/next"
    )
    assert (code, changed["channel"]) == (0, "team/next")
    assert changed["limits"] == {"requests_per_minute": None, "concurrency": 4, "tokens_per_day": None}
    code, rotated = run("tenants", "rotate", "acme", "--overlap", "90m")
    assert (code, [key["id"] for key in rotated["old_keys"]]) == (0, [first])
    assert registry.serving_state().keys[key_digest(rotated["key"])].id == rotated["record"]["id"]
    expires = datetime.fromisoformat(rotated["old_keys"][0]["expires"])
    assert timedelta(minutes=89) < expires - datetime.now(UTC) <= timedelta(minutes=90)
    assert f"key {first} works until" in say("tenants", "rotate", "acme")[1]
    code, revoked = run("tenants", "revoke", "acme", "--key", first)
    assert (code, [key["id"] for key in revoked["revoked"]]) == (0, [first])
    assert [row["live_keys"] for row in run("tenants", "ls")[1]] == [2]
    code, shown = run("tenants", "show", "acme")
    assert [key["live"] for key in shown["keys"]] == [False, True, True]
    assert shown["today"] == {"day": f"{datetime.now(UTC):%Y-%m-%d}", "tokens_used": 0, "tokens_reserved": 0}
    code, out, _ = say("tenants", "show", "acme")
    assert (code, out.count("live until"), out.count("revoked 2")) == (0, 1, 1)
    code, out, _ = say("tenants", "revoke", "acme")
    assert (code, out.count("revoked")) == (0, 2)
    assert "acme has no live key" in out
    assert "nothing to revoke" in say("tenants", "revoke", "acme")[1]
    events = run("tenants", "audit", "acme")[1]
    assert [event["action"] for event in events] == ["add", "change", "rotate", "rotate", "revoke", "revoke"]
    assert events[0]["who"] == "ada"
    assert "6 events, all digests match" in say("tenants", "audit")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "acme", "team/prod"), "tenant acme exists"),
        (("add", "Acme", "team/prod"), "'Acme' is not a valid tenant name"),
        (("add", "new", "prod"), "'prod' is not a valid channel name"),
        (("add", "new", "team/prod", "--concurrency", "0"), "a limit of 0: expected a whole number from 1"),
        (("add", "new", "team/prod", "--concurrency", "-5"), "a limit of -5"),
        (("add", "new", "team/prod", "--concurrency", "1e3"), "expected a whole number, or none"),
        (("add", "new", "team/prod", "--who", " "), "the name of whoever adds the tenant is empty"),
        (("add", "new", "team/prod", "--who", "\udcff"), "not allowed in a text"),
        (("show", "nobody"), "no tenant 'nobody'"),
        (("show", "\udcff"), "is not a valid tenant name"),
        (("audit", "nobody"), "no tenant 'nobody'"),
        (("rotate", "acme", "--overlap", "1 week"), "expected a time such as 90s, 30m, 24h or 7d"),
        (("rotate", "acme", "--overlap", "400d"), "expected from 0 to 365 days"),
        (("revoke", "acme", "--key", "123"), "tenant acme has no key '123'"),
    ],
)
def test_bad_input_is_one_clear_line(registry: Registry, say: Say, words: tuple[str, ...], said: str) -> None:
    registry.tenants.add("acme", "team/prod", "ada")
    code, out, err = say("tenants", *words)
    assert (code, out) == (3, "")
    assert said in err
    assert "Traceback" not in err
    assert len(registry.tenants.audit()) == 1


def test_a_log_that_was_tampered_with(registry: Registry, say: Say) -> None:
    registry.tenants.add("acme", "team/prod", "ada")
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.exec_driver_sql("UPDATE tenants SET channel = 'team/evil'")
    code, _, err = say("tenants", "audit")
    assert (code, "was changed without an event" in err) == (4, True)


def test_a_rollout_by_command(registry: Registry, lineage: Lineage, say: Say, run: Run) -> None:
    rollout = ("channels", "rollout", "team/prod")
    code, said = run(*rollout, lineage.gguf.id[:12], "--canary", "5", "--shadow", "50", "--reason", "see")
    assert (code, said["current"]["candidate"], said["current"]["canary_percent"]) == (
        0,
        lineage.gguf.id,
        5.0,
    )
    assert registry.rollouts.current("team/prod").shadow_percent == 50  # type: ignore[union-attr]
    assert "canary 5 %, shadow 50 %" in say(*rollout)[1]
    code, out, _ = say(*rollout, "--stop", "--reason", "seen", "--who", "bob")
    assert (code, "team/prod has no rollout in progress" in out, "bob: seen" in out) == (0, True, True)
    for words, expected in (
        (("--stop", "--reason", "again"), "has no rollout in progress"),
        (("--stop",), "with --reason WHY"),
        ((lineage.gguf.id, "--canary", "5"), "with --reason WHY"),
        ((lineage.gguf.id, "--reason", "see"), "0 % sends no traffic"),
        ((lineage.gguf.id, "--canary", "nan", "--reason", "see"), "expected a number from 0 to 100"),
        ((lineage.gguf.id, "--stop", "--reason", "see"), "leave out the candidate"),
        (("--canary", "5"), "name it"),
        ((lineage.merged.id, "--canary", "5", "--reason", "see"), "already"),
        ((lineage.dataset.id, "--canary", "5", "--reason", "see"), "only models can be rolled out"),
        (("nothing", "--canary", "5", "--reason", "see"), "no artifact or channel is called"),
    ):
        code, out, err = say(*rollout, *words)
        assert (code, out) == (3, "")
        assert expected in err, err
    assert len(registry.rollouts.history("team/prod")) == 2


def outcome(artifact: str, ago: timedelta, **changes: Any) -> Outcome:
    at = datetime.now(UTC) - ago
    known = {"channel": "team/prod", "generation": 1, "arm": "live", "minute": at, "requests": 40}
    return Outcome(**{**known, "artifact_id": artifact, "latencies_ms": [100.0] * 40, **changes})


def test_live_durations_go_to_the_gate(
    registry: Registry, lineage: Lineage, say: Say, run: Run, tmp_path: Path
) -> None:
    late, old = timedelta(minutes=1), timedelta(hours=3)
    registry.outcomes.add(
        [
            outcome(lineage.gguf.id, late, arm="canary"),
            outcome(lineage.gguf.id, late, arm="canary", latencies_ms=[0.0, *[120.0] * 39]),
            outcome(lineage.gguf.id, old, latencies_ms=[9000.0] * 40),
            outcome(lineage.merged.id, late, latencies_ms=[7000.0] * 40),
        ]
    )
    outcomes, file = ("channels", "outcomes", "team/prod"), tmp_path / "latency.json"
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({**POLICY, "max_latency_ms": 200}))
    gate = (
        "gate",
        str(policy),
        "--candidate",
        lineage.gguf.id,
        "--channel",
        "team/prod",
        "--latency",
        str(file),
    )
    take = ("--latency", str(file), "--artifact", lineage.gguf.id[:12])
    assert run(*outcomes, "--since", "1h", *take)[0] == 0
    assert json.loads(file.read_text()) == {
        "subject": lineage.gguf.id, "milliseconds": [100.0] * 40 + [120.0] * 39,
    }  # fmt: skip
    assert run(*gate)[0] == 0
    assert say(*outcomes, *take)[1].count("119 durations") == 1
    assert run(*gate)[0] == 1, "what was slow three hours ago counts now"
    file.unlink()
    for words, expected in (
        (("--latency", str(file)), "go together"),
        (("--artifact", lineage.gguf.id), "go together"),
        (("--latency", str(file), "--artifact", lineage.base.id), "has no durations of"),
        (("--latency", str(tmp_path), "--artifact", lineage.gguf.id), "cannot be written"),
        (("--since", "never"), "expected a time such as"),
    ):
        code, _, err = say(*outcomes, *words)
        assert (code, expected in err) == (3, True), err
    assert not file.exists()


def test_outcomes_in_a_table_and_pruned(registry: Registry, lineage: Lineage, say: Say, run: Run) -> None:
    outcomes = ("channels", "outcomes", "team/prod")
    assert "team/prod: no outcomes" in say(*outcomes)[1]
    registry.outcomes.add(
        [
            outcome(lineage.gguf.id, timedelta(days=100), arm="shadow", compared=8, agreed=7, failed=3),
            outcome(lineage.merged.id, timedelta(minutes=1), latencies_ms=[]),
        ]
    )
    code, out, _ = say(*outcomes)
    assert (code, "7 of 8" in out, "100 ms" in out, lineage.merged.id[:12] in out) == (0, True, True, True)
    assert [row["requests"] for row in run(*outcomes, "--since", "1h")[1]["outcomes"]] == [40]
    pruned = run(*outcomes, "--prune", "90d")[1]
    assert (pruned["forgotten"], len(pruned["outcomes"])) == (1, 1)
    assert say("channels", "outcomes", "Prod")[0] == 3


def test_a_consent_is_recorded_whole_and_its_log_is_checked(registry: Registry, say: Say, run: Run) -> None:
    registry.tenants.add("acme", "team/prod", "ada")
    registry.feeds.add("tickets", [], "ada")
    consent = ("tenants", "consent", "acme")
    assert "no consent in force" in say(*consent)[1]
    for half in (("--sample", "0.5"), ("--days", "7"), ("--redact", "email")):
        code, out, err = say(*consent, *half)
        assert (code, out) == (3, "")
        assert "recorded whole; add --feed" in err
    code, made = run(*consent, "--feed", "tickets", "--sample", "0.001", "--who", "ada")
    assert (code, made["consent"]["days"], len(made["consent"]["redact"])) == (0, 30, 7)
    assert "words of 0.1% of the requests, without url" in say(*consent)[1]
    assert run(*consent, "--feed", "tickets", "--redact")[1]["consent"]["redact"] == []
    assert say(*consent, "--feed", "tickets", "--withdraw")[0] == 3
    changes = run(*consent, "--withdraw")[1]["changes"]
    assert [change["action"] for change in changes] == ["give", "give", "withdraw"]
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.exec_driver_sql("UPDATE consents SET days = 3650 WHERE number = 1")
        triggers.create(connection)
    assert "consents of tenant acme: event 1 does not match" in say(*consent)[2]
