"""requirements-gate.lock: the packages of the light installation.

`python -m tests.deploy.light` gives them the versions of requirements.lock, which `make lock` has written.
"""

from __future__ import annotations

import importlib.metadata
import re
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


def main() -> None:
    head, whole = GATE.read_text("utf-8").splitlines()[0], versions(WHOLE)
    GATE.write_text("\n".join([head, *(whole[name] for name in versions(GATE))]) + "\n")


if __name__ == "__main__":
    main()
