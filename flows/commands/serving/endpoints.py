"""`tuneline endpoints`: which engines run, and ending one."""

from __future__ import annotations

import argparse

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import short
from registry.tenancy.endpoints import Endpoint
from serving import standalone


def ls(arguments: argparse.Namespace) -> Reply:
    """Endpoints that were not stopped, and whether they are alive."""
    with open_registry() as registry:
        rows = [(row, row.process.is_alive()) for row in registry.endpoints.ls(running_only=True)]
    cells = []
    for row, alive in rows:
        state, channel = "running" if alive else "ended", row.channel or "–"
        cells.append((row.id, channel, short(row.artifact_id), row.engine, row.url, str(row.pid), state))
    document = [{**row.model_dump(mode="json"), "alive": alive} for row, alive in rows]
    columns = ("id", "channel", "artifact", "engine", "url", "pid", "state")
    return Reply(document, lambda: print_table("", columns, cells))


def stop(arguments: argparse.Namespace) -> Reply:
    """Stop one endpoint; with `--gateway` the gateway that it is an engine of, and so all of its engines.

    Raises Usage for an engine of a gateway that runs without that option, and for the option otherwise;
    nothing is stopped then.
    """
    with open_registry() as registry:
        row = registry.endpoints.get(arguments.id)
        ended = [row]
        if row.in_gateway:
            mates = [e for e in registry.endpoints.ls(running_only=True) if e.process == row.process]
            if row.process.is_alive() and not arguments.gateway:
                raise Usage(_of_gateway(row, len(mates)))
            ended = mates or [row]
        elif arguments.gateway:
            raise Usage(f"endpoint {row.id} does not belong to a gateway; leave out --gateway")
        standalone.stop(row)
        for endpoint in ended:
            registry.endpoints.mark_stopped(endpoint.id)
    ids = [endpoint.id for endpoint in ended]
    document = {"id": row.id, "stopped": True, "endpoints": ids}
    return Reply(document, lambda: print("\n".join(f"{name}: stopped" for name in ids)))


def _of_gateway(row: Endpoint, engines: int) -> str:
    several = f"with {engines} engines" if engines > 1 else "with this engine"
    return (
        f"endpoint {row.id} is an engine of a gateway (process {row.pid}, {several}), which answers tenants; "
        "nothing was stopped. To do without this engine, take it out of the gateway's serve.yaml and start "
        f"that again; to end the whole gateway: tuneline endpoints stop {row.id} --gateway"
    )
