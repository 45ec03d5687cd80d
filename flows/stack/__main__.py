"""`python -m flows.stack up | status | down [--folder DIR] [--first-port N]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.errors import FlowError, Usage
from flows.formatting import duration
from flows.stack import accounts, databases, tenant
from flows.stack.databases import parts
from flows.stack.programs import (
    FIRST_PORT,
    Places,
    made,
    refuse_missing,
    refuse_taken_ports,
)
from flows.stack.supervise import StackSupervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.stack", description=__doc__)
    parser.add_argument("what", choices=["up", "status", "down"])
    parser.add_argument("--folder", type=Path, default=Path(".stack"), help="default: .stack")
    parser.add_argument("--first-port", type=int, help=f"default: as before, or {FIRST_PORT}")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    try:
        places = Places(folder, _first_port(folder, arguments.first_port))
        return {"up": up, "status": status, "down": down}[arguments.what](places)
    except FlowError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 3


def _first_port(folder: Path, given: int | None) -> int:
    """The port that was given, unless a stack runs in this folder on others: then Usage."""
    before = made(folder)
    if given is None:
        return FIRST_PORT if before is None else before.first_port
    if before is not None and given != before.first_port and StackSupervisor(before).runs():
        where = f"the stack in {folder} runs on ports from {before.first_port} on"
        raise Usage(f"{where}: `down` first, then `up` on others")
    return given


def up(places: Places) -> int:
    """Start what does not run yet, one after another, each once the one before is well."""
    refuse_missing()
    supervisor = StackSupervisor(places)
    running = supervisor.runs()
    if not running:
        refuse_taken_ports(places)
    environment = databases.prepare(places)
    places.remembered.write_text(str(places.first_port))
    everything = parts(places)
    if not running:
        supervisor.begin(everything)
    key: Path | None = None
    token: Path | None = None
    for part in everything:
        if not part.first and key is None:
            print("something to serve: an adapter for one tenant", flush=True)
            token = accounts.prepare(places, environment)
            key = tenant.prepare(places, environment)
        supervisor.start(part)
        print(f"{part.name:<14} is ready", flush=True)
    kept = f"the token that signs in is in {token}" if token else "no admin's token is kept here"
    print(f"the pages are at http://127.0.0.1:{places.port('ui')}; {kept}")
    print(f"the tenant's key is in {key}; make stack-status shows the state of each, make stack-down ends it")
    return 0


def status(places: Places) -> int:
    """A line for each; 1 where something is not well."""
    supervisor = StackSupervisor(places)
    if not supervisor.runs():
        print("the stack does not run; `make stack` starts it")
        return 1
    standings = [supervisor.standing(part) for part in parts(places)]
    for standing in standings:
        address = f"127.0.0.1:{standing.port}" if standing.port else "–"
        since = f"for {duration(standing.seconds)}" if standing.state == "RUNNING" else ""
        state = f"{standing.state.lower():<9} {address:<17} {since}"
        print(f"{'ok' if standing.well else 'fail':<5} {standing.name:<14} {state}")
    return 0 if all(standing.well for standing in standings) else 1


def down(places: Places) -> int:
    """Stop everything; what it holds stays in its folder."""
    supervisor = StackSupervisor(places)
    if supervisor.runs():
        supervisor.end()
    print(f"the stack does not run; what it holds is in {places.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
