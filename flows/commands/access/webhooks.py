"""`tuneline webhooks`: what each does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.commands.serving.tenants import who
from flows.formatting import plain
from registry import Registry
from registry.access.webhooks import Delivery, Webhook

_ONCE = "This secret is not shown again. Deliveries carry `Tuneline-Signature`, made with it."


def add(arguments: argparse.Namespace) -> Reply:
    """A new webhook."""
    with open_registry(make=True) as registry:
        webhook, secret = registry.webhooks.add(
            arguments.url, arguments.events, who(arguments), arguments.allow_private
        )
    document = {"webhook": webhook.model_dump(mode="json"), "secret": secret}
    first = f"webhook {webhook.id} is notified of {', '.join(webhook.events)}"
    lines = [first] if secret is None else [f"{first}; its secret is", secret, _ONCE]
    return Reply(document, lambda: print("\n".join(lines)))


def ls(arguments: argparse.Namespace) -> Reply:
    """All webhooks."""
    with open_registry() as registry:
        webhooks = registry.webhooks.ls()
    rows = [_row(webhook) for webhook in webhooks]
    columns = ("id", "url", "events", "since")
    return Reply(
        [webhook.model_dump(mode="json") for webhook in webhooks], lambda: print_table("", columns, rows)
    )


def rm(arguments: argparse.Namespace) -> Reply:
    """No more for this one."""
    with open_registry() as registry:
        registry.webhooks.remove(arguments.id, who(arguments))
    line = f"webhook {arguments.id} gets no more events"
    return Reply({"webhook": arguments.id, "removed": True}, lambda: print(line))


def deliveries(arguments: argparse.Namespace) -> Reply:
    """The log of deliveries."""
    with open_registry() as registry:
        log = registry.webhooks.deliveries(arguments.id, arguments.limit)
    return Reply([delivery.model_dump(mode="json") for delivery in log], lambda: _print_deliveries(log))


def test(arguments: argparse.Namespace) -> Reply:
    """One delivery, now; the exit code is 1 if it did not arrive."""
    from flows.run.prefect_block import notify
    from registry.access.delivery import deliver_due

    with open_registry() as registry:
        registry.webhooks.test(arguments.id, who(arguments))
        asyncio.run(deliver_due(registry.webhooks, notify))
        latest = registry.webhooks.deliveries(arguments.id, 100)
    delivery = next(sent for sent in latest if sent.event == "test")
    exit_code = 0 if delivery.state == "delivered" else 1
    return Reply(delivery.model_dump(mode="json"), lambda: _print_deliveries([delivery]), exit_code)


def deliver(arguments: argparse.Namespace) -> Reply:
    """Deliver what waits: once, or until a signal."""
    from flows.run.prefect_block import notify
    from registry.access.delivery import deliver_due

    with open_registry() as registry:
        if arguments.once:
            count = asyncio.run(deliver_due(registry.webhooks, notify))
            return Reply({"attempted": count}, lambda: print(f"{count} attempted"))
        asyncio.run(_until_signal(registry))
    return Reply({}, lambda: None)


async def _until_signal(registry: Registry) -> None:
    from flows.run.prefect_block import notify
    from registry.access.delivery import deliver_forever

    task = asyncio.ensure_future(deliver_forever(registry.webhooks, notify))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _row(webhook: Webhook) -> tuple[str, ...]:
    private = " (private allowed)" if webhook.private else ""
    return webhook.id, webhook.url + private, ", ".join(webhook.events), f"{webhook.created:%Y-%m-%d %H:%M}"


def _print_deliveries(log: list[Delivery]) -> None:
    rows = [
        (
            f"{delivery.created:%Y-%m-%d %H:%M:%S}",
            delivery.webhook,
            delivery.event,
            delivery.state,
            str(delivery.attempts),
            "–" if delivery.answer is None else str(delivery.answer),
            plain(delivery.error or ""),
        )
        for delivery in log
    ]
    print_table("", ("at (UTC)", "webhook", "event", "state", "attempts", "answer", "error"), rows)
