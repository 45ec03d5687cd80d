"""What the latest verification of each artifact found, for who watches: one small file each in the home.

In the home and not in the database, because what was read is this machine's: its store, its cache, its views.
A file is empty where all was as published, else it holds the number of problems; its time is that of the
verification.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = "verifications"

log = logging.getLogger("tuneline.registry")


@dataclass(frozen=True)
class Verification:
    """What a verification found, and when (seconds since the epoch)."""

    artifact_id: str
    problems: int
    at: float


def record(home: Path, artifact_id: str, problems: int) -> None:
    """Write down what was found. A disk that is full keeps nobody from verifying: the log says so then."""
    folder = home / FOLDER
    draft = folder / f".{artifact_id}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        draft.write_text(str(problems) if problems else "", encoding="utf-8")
        draft.rename(folder / artifact_id)
    except OSError as error:
        log.warning("the verification of %s is not recorded: %s", artifact_id[:12], error)


class Verifications:
    """The records of a home; read again only where a verification was recorded since."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._changed: int | None = None
        self._records: list[Verification] = []

    def latest(self) -> list[Verification]:
        """One for each artifact that was ever verified here."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if changed != self._changed:
            self._records = _read(self._folder)
            self._changed = changed
        return self._records


def _read(folder: Path) -> list[Verification]:
    records = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(entry.name) == 64:
                status = entry.stat()
                problems = int(Path(entry.path).read_text("utf-8")) if status.st_size else 0
                records.append(Verification(entry.name, problems, status.st_mtime))
    return records
