"""requirements-gate.lock: the packages of the light installation.

`python -m tests.deploy.light` gives them the versions of requirements.lock, which `make lock` has written.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
GATE, WHOLE = ROOT / "requirements-gate.lock", ROOT / "requirements.lock"


def normal(name: str) -> str:
    """A distribution's name as the packaging standard compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(lock: Path) -> dict[str, str]:
    """Normal name → its line."""
    lines = lock.read_text("utf-8").splitlines()
    return {normal(line.partition("==")[0]): line for line in lines if not line.startswith("#")}


def missing() -> set[str]:
    """What the packages of the gate's lock ask for and the lock does not hold."""
    held = set(versions(GATE))
    asked = set()
    for name in held:
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                asked.add(normal(requirement.name))
    return asked - held


def wanted(requirements: Iterable[str]) -> set[str]:
    """Normal names of what these requirements bring here, each with the extras that are asked for."""
    left, seen = [Requirement(text) for text in requirements], set[tuple[str, frozenset[str]]]()
    while left:
        one = left.pop()
        if (asked := (normal(one.name), frozenset(one.extras))) in seen:
            continue
        seen.add(asked)
        with suppress(importlib.metadata.PackageNotFoundError):
            for requirement in map(Requirement, importlib.metadata.requires(one.name) or ()):
                marker = requirement.marker
                if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                    left.append(requirement)
    return {name for name, _ in seen}


def main() -> None:
    head, whole = GATE.read_text("utf-8").splitlines()[0], versions(WHOLE)
    GATE.write_text("\n".join([head, *(whole[name] for name in versions(GATE))]) + "\n")


if __name__ == "__main__":
    main()
