"""`tuneline metrics`: serve the numbers of the registry and its runs until a signal ends it."""

from __future__ import annotations

import argparse
import json
import os

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from flows.commands import http
from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.metrics.exporter import metrics_app
from flows.metrics.rates import Prices, read_rates
from flows.run.readers import remark
from flows.settings import Settings

OPEN = "open to others at %s, with the names of tenants, channels and hosts: keep clients away from there"


def metrics(arguments: argparse.Namespace) -> Reply:
    """Serve `/metrics`; says where as soon as it listens, and returns after SIGTERM or SIGINT.

    Raises InvalidRecipe for a file of rates that is none, PortTaken, RegistryError.
    """
    file = arguments.rates or Settings().rates
    rates = Prices() if file is None else read_rates(file.expanduser())
    with open_registry() as registry:
        app: ASGIApp = metrics_app(registry, rates)
        if http.is_loopback(arguments.host):
            # A web page could else read them through a browser, by a name of its own for this address.
            app = TrustedHostMiddleware(app, ["127.0.0.1", "localhost"])
        else:
            remark(f"tuneline metrics: {OPEN % arguments.host}")

        def listening(url: str) -> None:
            document = {"url": f"{url}/metrics", "rates": file and str(file), "pid": os.getpid()}
            message = f"tuneline metrics: {url}/metrics; Ctrl-C ends it"
            print(json.dumps(document) if arguments.json else message, flush=True)

        http.serve(app, arguments.host, arguments.port, listening)
    return Reply(None, lambda: None)
