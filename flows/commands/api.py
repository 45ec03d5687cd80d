"""`tuneline api`: serve the registry's HTTP API until a signal ends it."""

from __future__ import annotations

import argparse
import json
import os

from flows.commands import http
from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.errors import Usage
from flows.settings import Settings
from registry.api.app import application

SHORTEST_TOKEN = 16
"""Characters; less could be guessed."""


def api(arguments: argparse.Namespace) -> Reply:
    """Serve the API; says where as soon as it listens, and returns after SIGTERM or SIGINT.

    Raises Usage for an address that others can reach while there is no token, PortTaken, RegistryError.
    """
    token = _token(Settings())

    def listening(url: str) -> None:
        document = {
            "url": url,
            "openapi": f"{url}/openapi.json",
            "token": secured,
            "pid": os.getpid(),
        }
        whose = "of a user, or of TUNELINE_API_TOKEN" if token else "of a user"
        with_token = f" with a token {whose}" if secured else ""
        message = f"tuneline api: {url}/v1{with_token}; {url}/openapi.json describes it; Ctrl-C ends it"
        print(json.dumps(document) if arguments.json else message, flush=True)

    with open_registry() as registry:
        secured = token is not None or registry.users.exist()
        if not secured and not http.is_loopback(arguments.host):
            raise Usage(
                f"--host {arguments.host} can be reached from other machines; set TUNELINE_API_TOKEN to a "
                f"secret of at least {SHORTEST_TOKEN} characters (`openssl rand -hex 24` makes one), add a "
                "user (`tuneline users add NAME`), or use 127.0.0.1"
            )
        http.serve(application(registry, token), arguments.host, arguments.port, listening)
    return Reply(None, lambda: None)


def _token(settings: Settings) -> str | None:
    if settings.api_token is None:
        return None
    token = settings.api_token.get_secret_value()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise Usage(
            f"TUNELINE_API_TOKEN has {len(token)} characters; expected at least {SHORTEST_TOKEN}, printable "
            "ASCII without spaces, such as `openssl rand -hex 24` makes; unset it to serve this machine only"
        )
    return token
