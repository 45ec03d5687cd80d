"""`tuneline ui`: serve the web interface until a signal ends it."""

from __future__ import annotations

import argparse
import json
import os
import secrets

from flows.commands import http
from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.errors import Usage
from flows.settings import Settings
from flows.ui.access.access import Access
from flows.ui.access.oidc import OidcSettings
from flows.ui.app import application

NICENESS = 10
"""Pages wait for answers to tenants that are computed on the same cores, and not the other way round."""


def ui(arguments: argparse.Namespace) -> Reply:
    """Serve the pages; says where as soon as it listens, and returns after SIGTERM or SIGINT.

    Raises Usage for an address that others can reach while there are no accounts, PortTaken, RegistryError.
    """
    oidc = OidcSettings.of(Settings())
    with open_registry() as registry:
        accounts = oidc is not None or registry.users.exist()
        if not accounts and not http.is_loopback(arguments.host):
            raise Usage(
                f"--host {arguments.host} can be reached from other machines, and there are no accounts; "
                "`tuneline users add NAME --role admin` makes one, or use 127.0.0.1"
            )
        link = None if accounts else secrets.token_urlsafe(24)
        access = Access(registry, link_token=link, secure_cookies=arguments.behind_tls, oidc=oidc)

        def listening(url: str) -> None:
            address = f"{url}/signin/link?token={link}" if link else f"{url}/"
            once = " (opens once; there are no accounts)" if link else ""
            document = {"url": url, "link": address if link else None, "pid": os.getpid()}
            message = f"tuneline ui: {address}{once}; Ctrl-C ends it"
            print(json.dumps(document) if arguments.json else message, flush=True)

        os.nice(NICENESS)
        app = application(registry, access)
        http.serve(app, arguments.host, arguments.port, listening, app.state.changes.end)
    return Reply(None, lambda: None)
