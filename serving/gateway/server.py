"""The gateway as a process: its two ports, its engines, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import uvloop
from aiohttp import web

from registry import Registry
from serving.gateway.app import App
from serving.gateway.budgets.ledger import Ledger
from serving.gateway.config import Address, ServeConfig
from serving.gateway.connections import ConnectionLimits
from serving.gateway.directory import Directory
from serving.gateway.feedback.receipts import Receipts
from serving.gateway.metrics import CONTENT_TYPE, Metrics
from serving.gateway.replica import engine_of
from serving.gateway.request_context import Recorder
from serving.gateway.rollout.outcomes import OutcomeRecorder
from serving.gateway.rollout.shadow import Shadows
from serving.gateway.router import MakeEngine, Router
from serving.gateway.served.watch import AnswerWatch
from serving.process.process import listen
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")

STALE_SECONDS = 30.0
"""A gateway that has not heard from its registry for longer is not ready for more traffic."""

PLAIN_HTTP = (
    "the gateway listens on %s and speaks plain HTTP: anyone between reads keys and prompts; put a "
    "proxy with TLS in front of it (docs/security.md)"
)
NO_KEY = "operations listen on %s and ask for no key: keep clients away from there (docs/security.md)"

Announce = Callable[[str, str], None]


def run(config: ServeConfig, registry: Registry, announce: Announce, make: MakeEngine = engine_of) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the gateway's URL and that of its operations.

    `make` makes an engine of a section of the configuration. Raises ServingError or RegistryError when
    something cannot be started; nothing is left running then.
    """
    router = Router(registry, config, make)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, registry, router, announce))


async def _serve(config: ServeConfig, registry: Registry, router: Router, announce: Announce) -> None:
    ending, ready = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with _opened(config, registry, router) as urls:
            ready.set()
            announce(*urls)
            await ending.wait()
            log.info("ending: no new requests, answers under way have %g s", config.grace_seconds)

    serving = asyncio.ensure_future(serve())

    def end() -> None:
        ending.set()
        if not ready.is_set():  # engines may take minutes to start
            serving.cancel()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unhandled)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await serving
    except asyncio.CancelledError:
        if not ending.is_set():
            raise


def _unhandled(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """asyncio's own message would hold the arguments of what failed."""
    error = context.get("exception")
    log.error("unhandled exception: %s", frames(error) if error else "without a trace")


@contextlib.asynccontextmanager
async def _opened(config: ServeConfig, registry: Registry, router: Router) -> AsyncIterator[tuple[str, str]]:
    """Both ports, open inside the block; gives their URLs."""
    async with contextlib.AsyncExitStack() as stack:
        clients = stack.enter_context(_listen(config.gateway))
        operators = stack.enter_context(_listen(config.operations))
        app, operations = await _assemble(config, registry, router, _url(operators), stack)
        server = ConnectionLimits(app, config.bounds)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=config.grace_seconds)
        await _open(stack, runner, clients)
        behind = web.AppRunner(operations, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await _open(stack, behind, operators)
        _warn_of_networks(config)
        yield _url(clients), _url(operators)


async def _assemble(
    config: ServeConfig,
    registry: Registry,
    router: Router,
    operations: str,
    stack: contextlib.AsyncExitStack,
) -> tuple[App, web.Application]:
    """Everything that is started before the ports open, and ends after they close, last first."""
    directory, ledger, outcomes = Directory(registry), Ledger(registry), OutcomeRecorder(registry)
    metrics = Metrics(config.metric_tenants)
    recovered = await asyncio.to_thread(ledger.start)
    stack.push_async_callback(asyncio.to_thread, ledger.stop)
    if recovered:
        log.warning("%d reservations of gateways that are gone were charged in full", recovered)
    await directory.start(lambda: router.changed(directory.state))
    stack.push_async_callback(directory.stop)
    stack.push_async_callback(router.stop)
    await router.start(directory.state, operations)
    outcomes.start()
    stack.push_async_callback(outcomes.stop)
    receipts = Receipts(registry)
    receipts.start()
    stack.push_async_callback(receipts.stop)
    shadows = Shadows(router, outcomes, metrics, config.shadows)
    stack.push_async_callback(shadows.stop)
    metrics.watch(router, directory)
    app = App(
        directory, router, ledger, Recorder(metrics, outcomes, receipts), shadows, receipts, config.bounds
    )
    watch = AnswerWatch(registry, router, metrics, config.served, app.limits)
    watch.start()
    stack.push_async_callback(watch.stop)
    return app, _operations(metrics, directory, router)


def _operations(metrics: Metrics, directory: Directory, router: Router) -> web.Application:
    """What an operator's tools ask: not for clients, and it shows no prompt and no key."""

    async def numbers(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        engines = {
            replica.name: replica.engine.up and replica.trusts(replica.artifact.id)
            for replica in router.replicas
        }
        ok = any(engines.values()) and directory.age < STALE_SECONDS
        state = {"ready": ok, "engines": engines, "registry_age_seconds": round(directory.age, 1)}
        return web.json_response(state, status=200 if ok else 503)

    app = web.Application()
    app.add_routes([web.get("/metrics", numbers), web.get("/healthz", alive), web.get("/readyz", ready)])
    return app


@contextlib.contextmanager
def _listen(address: Address) -> Iterator[socket.socket]:
    with listen(address.host, address.port) as listener:
        # asyncio leaves this out for a socket that does not say it is TCP; each event would wait 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)
        yield listener


async def _open(stack: contextlib.AsyncExitStack, runner: web.BaseRunner, listener: socket.socket) -> None:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener).start()


def _warn_of_networks(config: ServeConfig) -> None:
    for address, warning in ((config.gateway, PLAIN_HTTP), (config.operations, NO_KEY)):
        if not _loopback(address.host):
            log.warning(warning, address.host)


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        # what a library fills in, and its exceptions' messages, may be a client's words
        own = record.name.partition(".")[0] == "tuneline"
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if own else str(record.msg),
            **getattr(record, "request", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["trace"] = self.formatException(record.exc_info) if own else frames(record.exc_info[1])
        return json.dumps(entry)  # in ASCII, and one line whatever it holds


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the log of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, lowest in (("", logging.WARNING), ("tuneline", level)):  # "": the libraries'
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(lowest)
