"""`python -m flows.stack up | status | down [--folder DIR] [--first-port N]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.errors import FlowError
from flows.formatting import duration
from flows.stack import databases, tenant
from flows.stack.programs import FIRST_PORT, Places, Program, programs, refuse_missing
from flows.stack.supervise import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.stack", description=__doc__)
    parser.add_argument("what", choices=["up", "status", "down"])
    parser.add_argument("--folder", type=Path, default=Path(".stack"), help="default: .stack")
    parser.add_argument("--first-port", type=int, default=FIRST_PORT, help=f"default: {FIRST_PORT}")
    arguments = parser.parse_args()
    places = Places(arguments.folder.absolute(), arguments.first_port)
    try:
        return {"up": up, "status": status, "down": down}[arguments.what](places)
    except FlowError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 3


def up(places: Places) -> int:
    """Start what does not run yet, one after another, each once the one before is well."""
    refuse_missing()
    environment = databases.prepare(places)
    parts, supervisor = _parts(places, environment), Supervisor(places)
    if not supervisor.runs():
        supervisor.begin(parts)
    made = False
    for part in parts:
        if not part.first and not made:
            print("something to serve: an adapter for one tenant", flush=True)
            key, made = tenant.prepare(places, environment), True
        supervisor.start(part)
        print(f"{part.name:<14} is well", flush=True)
    print(f"the tenant's key is in {key}; make stack-status says how all stand, make stack-down ends it")
    return 0


def status(places: Places) -> int:
    """A line for each; 1 where something is not well."""
    supervisor = Supervisor(places)
    if not supervisor.runs():
        print("the stack does not run; `make stack` starts it")
        return 1
    standings = [supervisor.standing(part) for part in _parts(places, databases.prepare(places))]
    for one in standings:
        address = f"127.0.0.1:{one.port}" if one.port else "–"
        since = f"for {duration(one.seconds)}" if one.state == "RUNNING" else ""
        print(
            f"{'ok' if one.well else 'fail':<5} {one.name:<14} {one.state.lower():<9} {address:<17} {since}"
        )
    return 0 if all(one.well for one in standings) else 1


def down(places: Places) -> int:
    """Stop everything; what it holds stays in its folder."""
    supervisor = Supervisor(places)
    if supervisor.runs():
        supervisor.end()
    print(f"the stack does not run; what it holds is in {places.folder}")
    return 0


def _parts(places: Places, environment: dict[str, str]) -> list[Program]:
    return list(programs(places, environment, databases.database_user()))


if __name__ == "__main__":
    sys.exit(main())
