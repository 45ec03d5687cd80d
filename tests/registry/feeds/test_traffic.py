"""Consents, receipts and feedback: only what was agreed, once, from the key that asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from flows.commands.arguments.tenants import REDACTION
from registry import Artifact, Registry, Waiver
from registry.artifacts import BaseReference, QuantSpec
from registry.errors import (
    AlreadyExists,
    Corrupt,
    InvalidFeed,
    InvalidTenant,
    NoConsent,
    NotFound,
    StoreFailed,
)
from registry.feeds.traffic import Feedback, Receipt
from registry.tenancy.consents import Consent
from registry.tenancy.outcomes import Outcomes
from registry.tenancy.redaction import RULES, redacted
from tests.registry.backends import only
from tests.seconds import seconds

Publish = Callable[..., Artifact]
ASKED = [{"role": "user", "content": "My mail is ada@example.org, why is it slow?"}]


@pytest.fixture
def artifact(registry: Registry, publish: Publish) -> Artifact:
    registry.feeds.add("tickets", [], "ops")
    return publish(registry, "one")


@pytest.fixture
def agreed(registry: Registry, artifact: Artifact) -> tuple[Consent, str]:
    """A tenant's consent and the id of its key."""
    _, key, _ = registry.tenants.add("acme", "team/acme", "ops")
    return registry.consents.give("acme", "tickets", 1.0, 30, list(RULES), "ada"), key.id


def receipt(request: str, agreed: tuple[Consent, str], artifact: Artifact, **more: Any) -> Receipt:
    consent, key = agreed
    known = {"at": datetime.now(UTC), "messages": ASKED, "answer": "Call +49 30 1234567.", **more}
    return Receipt(request * 32, key, consent, "team/acme", artifact.id, "live", **known)


@only("local")
def test_feedback_is_counted_for_a_canary(
    registry: Registry, publish: Publish, base: BaseReference, plain: QuantSpec
) -> None:
    model = publish(registry, "model", kind="base", base=base, quant=plain)
    registry.channels.move("team/acme", model.id, 0, waiver=Waiver("the first", "ada"))
    registry.feeds.add("tickets", [], "ops")
    _, key, _ = registry.tenants.add("acme", "team/acme", "ops")
    agreed = registry.consents.give("acme", "tickets", 1.0, 30, list(RULES), "ada"), key.id
    said: list[dict[str, Any]] = [
        {"thumbs": "up"}, {"thumbs": "down"}, {"score": 0.5}, {"score": 0.4}, {"correction": "Call us."},
    ]  # fmt: skip
    earlier = datetime.now(UTC) - timedelta(days=2)
    registry.traffic.keep([receipt(str(number), agreed, model, at=earlier) for number in range(len(said))])
    for number, words in enumerate(said):
        registry.traffic.give(key.id, Feedback(request=str(number) * 32, **words))
    with pytest.raises(AlreadyExists):
        registry.traffic.give(key.id, Feedback(request="0" * 32, thumbs="down"))
    rows = registry.outcomes.read("team/acme")
    assert [(row.rated, row.disliked, row.requests) for row in rows] == [
        (1, 0, 0), (1, 1, 0), (1, 0, 0), (1, 1, 0), (1, 1, 0),
    ]  # fmt: skip
    assert {(row.artifact_id, row.arm, row.generation) for row in rows} == {(model.id, "live", 1)}
    assert {row.minute for row in rows} == {earlier.replace(second=0, microsecond=0)}, "of the answers"


@only("local")
def test_feedback_is_kept_with_its_rating_or_not_at_all(
    registry: Registry,
    publish: Publish,
    base: BaseReference,
    plain: QuantSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def ends(*_: Any) -> None:
        raise StoreFailed("the process ends here")

    key = rated_once(registry, publish, base, plain)
    said = Feedback(request="1" * 32, thumbs="up")
    with monkeypatch.context() as killed:
        killed.setattr(Outcomes, "add", ends)
        with pytest.raises(StoreFailed):
            registry.traffic.give(key, said)
    assert registry.feeds.rows("tickets") == []
    assert registry.traffic.give(key, said) == 1, "it can be given again"
    assert [row.rated for row in registry.outcomes.read("team/acme")] == [1]


@only("postgresql", "local")
def test_ratings_are_seen_in_the_order_of_their_numbers(
    registry: Registry, publish: Publish, base: BaseReference, plain: QuantSpec
) -> None:
    """A canary's judge reads on from the last number: one that appeared later would never be counted."""
    key = rated_once(registry, publish, base, plain)
    thread = threading.Thread(
        target=registry.traffic.give, args=(key, Feedback(request="1" * 32, thumbs="up"))
    )
    with registry.database.count() as connection:  # a gateway's counts, not yet committed
        thread.start()
        here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        waits = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND {here}"
        limit = time.monotonic() + seconds(30)
        while connection.execute(text(waits)).scalar_one() != 1:
            assert time.monotonic() < limit, "feedback does not wait"
            time.sleep(0.01)
        assert registry.outcomes.read("team/acme") == []
    thread.join(seconds(30))
    assert [row.rated for row in registry.outcomes.read("team/acme")] == [1]


def rated_once(registry: Registry, publish: Publish, base: BaseReference, plain: QuantSpec) -> str:
    """Have one request of a live model that takes feedback; its key."""
    model = publish(registry, "model", kind="base", base=base, quant=plain)
    registry.channels.move("team/acme", model.id, 0, waiver=Waiver("the first", "ada"))
    registry.feeds.add("tickets", [], "ops")
    _, key, _ = registry.tenants.add("acme", "team/acme", "ops")
    agreed = registry.consents.give("acme", "tickets", 1.0, 30, list(RULES), "ada"), key.id
    registry.traffic.keep([receipt("1", agreed, model)])
    return key.id


@only("local")
def test_feedback_becomes_rows(registry: Registry, artifact: Artifact, agreed: tuple[Consent, str]) -> None:
    key = agreed[1]
    registry.traffic.keep([receipt(request, agreed, artifact) for request in "1234"])
    assert registry.traffic.give(key, Feedback(request="1" * 32, thumbs="up")) == 1
    assert registry.traffic.give(key, Feedback(request="2" * 32, thumbs="down", score=0.25)) == 0
    corrected = Feedback(request="3" * 32, correction="Write to bob@example.org `<script>alert(1)</script>`")
    assert registry.traffic.give(key, corrected) == 2
    assert registry.outcomes.read("team/acme") == [], "ratings of a channel that does not exist any more"
    rows = registry.feeds.rows("tickets")
    assert [(one.kind, one.origin, one.request) for one in rows] == [
        ("chat", "answer", "1" * 32),
        ("chat", "correction", "3" * 32),
        ("preference", "correction", "3" * 32),
    ]
    assert {(one.tenant, one.artifact_id, one.who) for one in rows} == {
        ("acme", artifact.id, f"tenant acme, key {key}")
    }
    assert rows[0].content == {
        "messages": [
            {"role": "user", "content": "My mail is [email], why is it slow?"},
            {"role": "assistant", "content": "Call [phone]."},
        ]
    }
    assert rows[2].content == {
        "messages": [{"role": "user", "content": "My mail is [email], why is it slow?"}],
        "chosen": "Write to [email] `<script>alert(1)</script>`",
        "rejected": "Call [phone].",
    }
    assert rows[0].expires is not None
    assert rows[0].expires - rows[0].at > timedelta(days=29)
    with registry.database.read() as connection:
        for table in ("receipts", "feedback", "feed_rows"):
            kept = str(connection.execute(text(f"SELECT * FROM {table}")).all())
            assert "example.org" not in kept
            assert "1234567" not in kept
    (outcome,) = registry.traffic.outcomes("team/acme")
    assert (outcome.up, outcome.down, outcome.corrected, outcome.scores) == (1, 1, 1, [0.25])
    assert registry.traffic.outcomes("team/acme", datetime.now(UTC)) == []
    contents = [content for _, content in registry.feeds.contents(registry.feeds.watermark("tickets"))]
    assert [content is None for content in contents] == [False, False, True], "a preference is no chat"


@only("local")
def test_feedback_that_is_refused(
    registry: Registry, artifact: Artifact, agreed: tuple[Consent, str]
) -> None:
    key, up = agreed[1], Feedback(request="1" * 32, thumbs="up")
    registry.traffic.keep([receipt("1", agreed, artifact)])
    _, other, _ = registry.tenants.add("other", "team/other", "ops")
    registry.consents.give("other", "tickets", 1, 30, [], "ada")
    for forger in (other.id, registry.tenants.rotate("acme", "ops", timedelta(days=1))[0].id):
        with pytest.raises(NotFound, match="no such request of this key"):
            registry.traffic.give(forger, up)
    with pytest.raises(NotFound):
        registry.traffic.give(key, Feedback(request="9" * 32, thumbs="up"))
    with pytest.raises(InvalidFeed, match="last message is not an answer"):
        registry.traffic.give(key, Feedback(request="1" * 32, correction=" "))
    assert registry.traffic.give(key, up) == 1, "what was refused left nothing behind"
    with pytest.raises(AlreadyExists, match="only once"):
        registry.traffic.give(key, up)
    registry.traffic.keep([receipt("2", agreed, artifact), receipt("3", agreed, artifact)])
    registry.consents.withdraw("acme", "ada")
    with pytest.raises(NoConsent, match="withdrawn"):
        registry.traffic.give(key, Feedback(request="2" * 32, thumbs="up"))
    registry.consents.give("acme", "tickets", 1, 30, [], "ada")
    registry.tenants.revoke("acme", "ops")
    with pytest.raises(InvalidTenant, match="expired or was revoked"):
        registry.traffic.give(key, Feedback(request="3" * 32, thumbs="up"))
    assert len(registry.feeds.rows("tickets")) == 1


@only("local")
def test_words_that_can_be_no_row_are_not_kept_and_feedback_on_them_is(
    registry: Registry, artifact: Artifact, agreed: tuple[Consent, str]
) -> None:
    odd: list[dict[str, Any]] = [
        {"answer": "half a \ud83d character"},
        {"answer": " "},
        {"messages": [{"role": "user", "content": "a\0b"}]},
        {"messages": ASKED * 1001},
        {"messages": [{"role": "system", "content": "nobody asks"}]},
    ]
    receipts = [receipt(str(n), agreed, artifact, **one) for n, one in enumerate(odd)]
    registry.traffic.keep([*receipts, receipt("9", agreed, artifact)])
    for n in range(len(odd)):
        assert registry.traffic.give(agreed[1], Feedback(request=str(n) * 32, thumbs="up")) == 0
    assert registry.traffic.give(agreed[1], Feedback(request="9" * 32, thumbs="up")) == 1, "beside them"
    assert registry.traffic.outcomes("team/acme")[0].up == len(odd) + 1


@only("local")
def test_a_receipt_that_was_on_its_way_while_its_tenant_was_forgotten_is_not_written(
    registry: Registry, artifact: Artifact, agreed: tuple[Consent, str]
) -> None:
    before = receipt("1", agreed, artifact)
    registry.forgettings.forget("ada", tenant="acme")
    registry.traffic.keep([before, receipt("2", agreed, artifact)])
    with pytest.raises(NotFound):
        registry.traffic.give(agreed[1], Feedback(request="1" * 32, thumbs="up"))
    assert registry.traffic.give(agreed[1], Feedback(request="2" * 32, thumbs="up")) == 1


@only("local")
def test_words_are_kept_only_as_long_as_agreed(
    registry: Registry, artifact: Artifact, agreed: tuple[Consent, str]
) -> None:
    old = receipt("1", agreed, artifact, at=datetime.now(UTC) - timedelta(days=31))
    unsampled = receipt("2", agreed, artifact, messages=None, answer=None)
    registry.traffic.keep([old, unsampled, receipt("3", agreed, artifact)])
    with pytest.raises(NotFound, match="still takes feedback"):
        registry.traffic.give(agreed[1], Feedback(request="1" * 32, thumbs="up"))
    assert registry.traffic.give(agreed[1], Feedback(request="2" * 32, correction="no")) == 0
    registry.forgettings.expire()
    with registry.database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM receipts")).scalar_one() == 2
    assert registry.traffic.give(agreed[1], Feedback(request="3" * 32, thumbs="up")) == 1
    assert registry.forgettings.forget("ada", tenant="acme").rows == {"tickets": [1]}
    with registry.database.read() as connection:
        for table in ("receipts", "feedback"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


@only("local")
def test_consents_are_recorded_and_checked(
    registry: Registry, artifact: Artifact, agreed: tuple[Consent, str]
) -> None:
    assert registry.serving_state().consents == {"acme": agreed[0]}
    seen = registry.serving_version()
    registry.consents.give("acme", "tickets", 0.5, 7, ["email"], "bob")
    registry.consents.withdraw("acme", "ada")
    assert registry.serving_version() == seen + 2
    assert registry.serving_state().consents == {}
    assert [(e.number, e.action, e.sample, e.redact) for e in registry.consents.audit("acme")] == [
        (1, "give", 1.0, tuple(RULES)),
        (2, "give", 0.5, ("email",)),
        (3, "withdraw", 0.5, ("email",)),
    ]
    with pytest.raises(NotFound, match="no consent in force"):
        registry.consents.withdraw("acme", "ada")
    for wrong in ({"sample": 1.5}, {"days": 0}, {"redact": ["names"]}):
        terms: dict[str, Any] = {"sample": 1, "days": 30, "redact": [], **wrong}
        with pytest.raises(InvalidTenant, match="expected"):
            registry.consents.give("acme", "tickets", who="ada", **terms)
    with pytest.raises(NotFound, match="no feed 'nope'"):
        registry.consents.give("acme", "nope", 1, 30, [], "ada")
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        registry.consents.give("nobody", "tickets", 1, 30, [], "ada")
    with registry.database.write() as connection:
        name = "consents_no_update"
        on = "" if connection.dialect.name == "sqlite" else " ON consents"
        connection.execute(text(f"DROP TRIGGER {name}{on}"))
        connection.execute(text("UPDATE consents SET days = 3650 WHERE number = 1"))
    with pytest.raises(Corrupt, match="consents of tenant acme"):
        registry.consents.audit()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("mail ada.l+x@mail.example.org now", "mail [email] now"),
        ("see https://example.org/a?b=c.", "see [url]"),
        ("from 192.168.0.1 on", "from [ip] on"),
        ("DE89 3704 0044 0532 0130 00 please", "[iban] please"),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("call +49 30 1234567 or (030) 123456", "call [phone] or [phone]"),
        ("customer 12345678", "customer [number]"),
        ("in 2026 I paid 12345 for version 1.2.3", "in 2026 I paid 12345 for version 1.2.3"),
        # as pages and input methods write them
        ("card 4111\u00a01111\u202f1111\u20091111", "card [card]"),
        ("card 4111\u20111111\u20131111.1111", "card [card]"),
        ("card 3782 822463 10005", "card [card]"),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "[iban]"),
        ("call (555) 123-4567 or 555.123.4567", "call [phone] or [phone]"),
        ("call \uff0b49\u00a030\u00a0123\u20114567", "call [phone]"),
        ("mail ada\uff20example\uff0eorg", "mail [email]"),
        ("see www.example.org/a?token=b", "see [url]"),
        # by characters that nobody sees
        ("card 4111\u200b1111\u00ad1111\u20601111", "card [card]"),
        ("mail ada\u200b@\ufeffexample.org", "mail [email]"),
        # by length
        ("1" * 41, "[number]"),
        (f"{'a' * 65}@example.org", "[email]"),
        (f"https://example.org/{'a' * 2000}?token=b", "[url]"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f52c",) * 2,
    ],
)
def test_redaction(said: str, kept: str) -> None:
    assert redacted(said, RULES) == kept
    assert redacted(said, []) == said


def test_the_command_knows_each_rule() -> None:
    assert tuple(RULES) == REDACTION


PIECES = ("a@", "1", "+1 ", "AB12 ", "http://", "1.", "é", "0-", "www.", "a\u200b", "123 ")


@pytest.mark.parametrize("piece", PIECES)
def test_redaction_takes_time_in_proportion_to_the_text(piece: str) -> None:
    def seconds(count: int) -> float:
        began = time.process_time()
        redacted(piece * count, RULES)
        return time.process_time() - began

    redacted(piece, RULES)
    assert min(seconds(80_000) for _ in range(3)) < 40 * min(seconds(8_000) for _ in range(3)) + 0.05
