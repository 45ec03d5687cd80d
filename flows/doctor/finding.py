"""One line of what `tuneline doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
"""There in the source tree; not where a wheel was installed, which has no Makefile either."""
SET_UP = (
    "make setup installs the locked versions"
    if LOCK.is_file()
    else "install tuneline's wheel again, with its dependencies and `-c requirements.lock` of its source tree"
)

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do where it is not well."""

    subject: str
    state: State
    found: str
    remedy: str = ""
