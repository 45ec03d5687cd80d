"""Webhooks: what is told, to whom, and where it must not go."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from sqlalchemy import text

from registry import Artifact, Registry, Waiver
from registry.access import delivery
from registry.access.addresses import is_public
from registry.access.delivery import deliver_due, deliver_forever, signature, wait
from registry.errors import InvalidWebhook, Moved, NotFound
from registry.outbox import EVENTS
from tests.registry.backends import only
from tests.seconds import seconds

Publish = Callable[..., Artifact]
BY_HAND = Waiver("because", "ada")


@dataclass
class Receiver:
    """A server that answers what it is told to, and keeps what it got."""

    url: str = ""
    answers: Iterator[int] = field(default_factory=lambda: iter(()))
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        status = next(self.answers, 204)
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else None)


@asynccontextmanager
async def receiver(*answers: int) -> AsyncIterator[Receiver]:
    kept = Receiver(answers=iter(answers))
    app = web.Application()
    app.router.add_post("/{path:.*}", kept.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    kept.url = f"http://127.0.0.1:{port}/hook?x=1"
    try:
        yield kept
    finally:
        await runner.cleanup()


@only("local")
def test_a_promotion_and_a_rollback_are_told_signed(registry: Registry, publish: Publish) -> None:
    first, second = (publish(registry, text).id for text in ("one", "two"))

    async def tell() -> tuple[str, list[tuple[dict[str, str], bytes]]]:
        async with receiver() as other:
            webhook, secret = registry.webhooks.add(other.url, ["promotion", "rollback"], "ada", private=True)
            registry.channels.move("support/prod", first, 0, waiver=BY_HAND)
            registry.gates.record(second, first, {}, "fail", {})  # was not asked for
            registry.channels.move("support/prod", second, 1, waiver=BY_HAND)
            registry.channels.rollback("support/prod", "worse", "olga")
            assert await deliver_due(registry.webhooks) == 3
            assert await deliver_due(registry.webhooks) == 0
            registry.webhooks.remove(webhook.id, "ada")
            registry.channels.move("support/prod", second, 3, waiver=BY_HAND)
            assert await deliver_due(registry.webhooks) == 0
            return secret, other.requests

    secret, requests = asyncio.run(tell())
    told = [json.loads(body) for _, body in requests]
    assert sorted(one["event"] for one in told) == ["promotion", "promotion", "rollback"]
    back = next(one["about"] for one in told if one["event"] == "rollback")
    assert (back["channel"], back["generation"], back["artifact_id"]) == ("support/prod", 3, first)
    assert (back["who"], back["reason"]) == ("olga", "worse")
    for headers, body in requests:
        parts = dict(part.split("=") for part in headers["Tuneline-Signature"].split(","))
        expected = hmac.new(secret.encode(), f"{parts['t']}.".encode() + body, hashlib.sha256)
        assert parts["v1"] == expected.hexdigest()
        assert abs(time.time() - int(parts["t"])) < seconds(60)
        assert headers["Tuneline-Delivery"] == json.loads(body)["id"]
    for one in registry.webhooks.deliveries():
        assert (one.state, one.attempts, one.answer, one.error) == ("delivered", 1, 204, None)
    with registry.database.read() as connection:
        bodies = connection.execute(text("SELECT body FROM webhook_deliveries")).scalars().all()
    assert bodies == [None] * 3, "the log keeps no bodies"


@only("sqlite", "local")
def test_what_did_not_happen_is_not_told(registry: Registry, publish: Publish) -> None:
    first = publish(registry, "one").id
    registry.webhooks.add("https://example.org", EVENTS, "ada")
    registry.channels.move("support/prod", first, 0, waiver=BY_HAND)
    with pytest.raises(Moved):
        registry.channels.move("support/prod", first, 0, waiver=BY_HAND)
    assert [one.event for one in registry.webhooks.deliveries()] == ["promotion"]
    registry.gates.record(first, None, {}, "pass", {})
    registry.gates.record(first, None, {}, "pass", {})
    assert [one.event for one in registry.webhooks.deliveries()] == ["gate", "promotion"]
    about = {"channel": "support/prod"}
    told = [registry.webhooks.tell("drift", about, once) for once in ("a", "a", "b")]
    assert told == [1, 0, 1], "what several notice is told once"


@only("sqlite", "local")
def test_it_is_tried_again_until_it_arrives(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(delivery, "LONGEST_WAIT", 0.002)
    monkeypatch.setattr(delivery, "LOOKED_EVERY", 0.01)

    async def tell() -> list[bytes]:
        async with receiver(500, 302) as other:
            registry.webhooks.add(other.url, ["promotion"], "ada", private=True)
            task = asyncio.ensure_future(deliver_forever(registry.webhooks))
            registry.channels.move("support/prod", publish(registry, "one").id, 0, waiver=BY_HAND)
            async with asyncio.timeout(seconds(20)):
                while registry.webhooks.deliveries()[0].state == "waiting":
                    await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return [body for _, body in other.requests]

    bodies = asyncio.run(tell())
    assert len(bodies) == 3, "a redirect is not followed, but an answer to be tried again"
    assert len(set(bodies)) == 1
    (one,) = registry.webhooks.deliveries()
    assert (one.state, one.attempts, one.answer) == ("delivered", 3, 204)


@only("sqlite", "local")
def test_it_is_given_up_in_the_end(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ATTEMPTS", 2)
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        webhook, _ = registry.webhooks.add(url, ["gate"], "ada", private=True)
        registry.webhooks.test(webhook.id, "ada")
        assert asyncio.run(deliver_due(registry.webhooks)) == 2
    (one,) = registry.webhooks.deliveries(webhook.id)
    assert (one.state, one.attempts, one.answer) == ("failed", 2, None)
    assert "Cannot connect" in str(one.error)


@only("local")
def test_two_who_deliver_at_once_share_the_work(registry: Registry) -> None:
    webhook, _ = registry.webhooks.add("https://example.org", ["gate"], "ada")
    for _ in range(3):
        registry.webhooks.test(webhook.id, "ada")
    claims = [{one.id for one in registry.webhooks.claim(60, 2)} for _ in range(3)]
    assert [len(claim) for claim in claims] == [2, 1, 0]
    assert not claims[0] & claims[1]
    assert not registry.webhooks.due()
    assert registry.webhooks.due(time.time() + 61), "a claim of a process that died comes to its end"


@only("sqlite", "local")
def test_a_block_is_told_as_an_address_is(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.0)
    webhook, _ = registry.webhooks.add("prefect:slack-webhook/ops", ["night"], "ada")
    answers, told = iter(["no such channel", None]), []

    async def notify(block: str, body: str) -> str | None:
        told.append((block, json.loads(body)["about"]))
        return next(answers)

    registry.webhooks.tell("night", {"night": "2026-11-29"}, "that night")
    asyncio.run(deliver_due(registry.webhooks, notify))
    assert told == [("slack-webhook/ops", {"night": "2026-11-29"})] * 2
    (sent,) = registry.webhooks.deliveries(webhook.id)
    assert (sent.state, sent.attempts, sent.answer, sent.error) == ("delivered", 2, None, None)
    registry.webhooks.test(webhook.id, "ada")
    monkeypatch.setattr(delivery, "ATTEMPTS", 1)
    asyncio.run(deliver_due(registry.webhooks))
    latest = registry.webhooks.deliveries(webhook.id)[0]
    assert latest.state == "failed"
    assert "tells no Prefect blocks" in (latest.error or "")


def test_waits_double_and_differ() -> None:
    assert [wait(n, lambda: 1.0) for n in (1, 2, 3, 30)] == [10, 20, 40, delivery.LONGEST_WAIT]
    assert [wait(n, lambda: 0.0) for n in (1, 2, 3)] == [5, 10, 20]


def test_the_signature_is_what_the_documents_say() -> None:
    mac = hmac.new(b"secret", b'17.{"a":1}', hashlib.sha256).hexdigest()
    assert signature("secret", 17, b'{"a":1}') == f"t=17,v1={mac}"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public


@only("sqlite", "local")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1/x", "this machine"),
        ("http://localhost:8080", "this machine"),
        ("http://[::1]/", "this machine"),
        ("http://169.254.169.254/latest", "this machine"),
        ("ftp://example.org", "expected an address such as"),
        ("example.org", "expected an address such as"),
        ("https://user:secret@example.org", "or a password"),
        ("https://example.org/#a", "fragment"),
        ("https://example.org:99999/", "is not a valid address"),
        ("https://exämple.org/", "ASCII"),
        ("https://example.org/\r\nX: y", "ASCII"),
        ("prefect:team-mail", "prefect:TYPE/NAME"),
        ("prefect:slack-webhook/../x", "prefect:TYPE/NAME"),
        ("prefect:email-server-credentials/x?cc=a@example.org", "prefect:TYPE/NAME"),
    ],
)
def test_an_address_that_must_not_be_is_refused(registry: Registry, url: str, says: str) -> None:
    with pytest.raises(InvalidWebhook, match=says):
        registry.webhooks.add(url, ["gate"], "ada")
    assert registry.webhooks.ls() == []


@only("sqlite", "local")
def test_a_name_that_leads_to_this_machine_is_refused_at_delivery(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with DNS rebinding: the name was harmless when the webhook was added."""

    async def tell() -> Receiver:
        async with receiver() as other:
            port = int(other.url.split(":")[2].partition("/")[0])
            webhook, _ = registry.webhooks.add(f"http://rebound.example:{port}/", ["gate"], "ada")
            allowed, _ = registry.webhooks.add(f"http://ours.example:{port}/", ["gate"], "ada", private=True)
            for one in (webhook, allowed):
                registry.webhooks.test(one.id, "ada")
            real = asyncio.get_running_loop().getaddrinfo

            async def rebound(host: str, *rest: object, **more: object) -> object:
                return await real("127.0.0.1" if host.endswith(".example") else host, *rest, **more)  # type: ignore[arg-type]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebound)
            await deliver_due(registry.webhooks)
            return other

    other = asyncio.run(tell())
    refused, delivered = sorted(registry.webhooks.deliveries(), key=lambda one: one.state == "delivered")
    assert (refused.state, refused.answer) == ("waiting", None)
    assert "which was not allowed for this webhook" in str(refused.error)
    assert delivered.state == "delivered"
    assert len(other.requests) == 1


@only("sqlite", "local")
def test_what_is_not_there_is_told(registry: Registry) -> None:
    with pytest.raises(InvalidWebhook, match="expected some of promotion"):
        registry.webhooks.add("https://example.org", ["promotions"], "ada")
    for ask in (registry.webhooks.deliveries, lambda x: registry.webhooks.remove(x, "ada")):
        with pytest.raises(NotFound, match="webhooks ls"):
            ask("f" * 12)
    webhook, _ = registry.webhooks.add("https://example.org", ["gate"], "ada")
    registry.webhooks.remove(webhook.id, "ada")
    with pytest.raises(NotFound, match="was removed"):
        registry.webhooks.remove(webhook.id, "ada")
    with pytest.raises(NotFound, match="was removed"):
        registry.webhooks.test(webhook.id, "ada")
    assert [event.action for event in registry.webhooks.audit()] == ["add", "revoke"]
