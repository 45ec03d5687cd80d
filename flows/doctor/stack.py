"""The stack of `make stack`, where there is one: each of its parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flows.doctor.finding import Finding
from flows.errors import FlowError
from flows.formatting import duration
from flows.settings import Settings
from flows.stack.programs import Places, Program, made

if TYPE_CHECKING:
    from flows.stack.supervise import StackSupervisor

FOLDER = Path(".stack")
"""Where `make stack` makes one."""


def looks(settings: Settings) -> list[tuple[str, Callable[[], Finding]]]:
    """A look at each part of the stack whose home this is, or that was made in this folder or is it."""
    if find_spec("supervisor") is None:
        return []
    try:
        here = (settings.root.parent, FOLDER.absolute(), Path.cwd())
        places = next(filter(None, map(made, here)), None)
        return [] if places is None else _parts(places)
    except (FlowError, OSError, ValueError) as error:
        finding = Finding("stack", "fail", str(error), "correct that, then `make stack`")
        return [("stack", lambda: finding)]


def _parts(places: Places) -> list[tuple[str, Callable[[], Finding]]]:
    from flows.stack.databases import parts
    from flows.stack.supervise import StackSupervisor  # brings what a light installation does not have

    supervisor = StackSupervisor(places)
    if not supervisor.runs():
        message = f"the one in {places.folder} does not run; `make stack` starts it"
        return [("stack", lambda: Finding("stack", "ok", message))]
    return [(f"stack.{part.name}", partial(_part, supervisor, part, places.folder)) for part in parts(places)]


def _part(supervisor: StackSupervisor, program: Program, folder: Path) -> Finding:
    standing = supervisor.standing(program)
    subject = f"stack.{program.name}"
    where = f" on 127.0.0.1:{standing.port}" if standing.port else ""
    if standing.well:
        return Finding(subject, "ok", f"running{where} for {duration(standing.seconds)}")
    running = standing.state == "RUNNING"
    message = f"runs{where}, but does not answer" if running else f"does not run ({standing.state.lower()})"
    return Finding(subject, "fail", message, f"its log: {folder / 'logs' / f'{program.name}.log'}")
