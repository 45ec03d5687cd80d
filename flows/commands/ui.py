"""`tuneline ui`: serve the web interface until a signal ends it."""

from __future__ import annotations

import argparse
import json
import os

from flows.commands import http
from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.errors import Usage
from flows.ui.app import application


def ui(arguments: argparse.Namespace) -> Reply:
    """Serve the pages; says where as soon as it listens, and returns after SIGTERM or SIGINT.

    Raises Usage for an address that others can reach while there are no accounts, PortTaken, RegistryError.
    """
    if not http.is_loopback(arguments.host):
        raise Usage(f"--host {arguments.host} can be reached from other machines; use 127.0.0.1")

    def listening(url: str) -> None:
        document = {"url": url, "pid": os.getpid()}
        message = f"tuneline ui: {url}/; Ctrl-C ends it"
        print(json.dumps(document) if arguments.json else message, flush=True)

    with open_registry() as registry:
        http.serve(application(registry), arguments.host, arguments.port, listening)
    return Reply(None, lambda: None)
