"""Work under way in a draft: what is finished is not made again after the process was killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

CHECKPOINTS = "checkpoints"
"""What a draft keeps for the next attempt at the same result."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Unfinished:
    """`out/checkpoints/NAME`: a file there has `.part` behind its name until all of it is written.

    What is there is kept if it was left by the same `inputs`, unless the system was started anew since: a
    process that is killed loses nothing that it has written, a system that goes down does. To wait for the
    disk after each file would take as long as much of the work.
    """

    def __init__(self, out: Path, name: str, inputs: str) -> None:
        self._root, self.folder = out / CHECKPOINTS, out / CHECKPOINTS / name
        self._stamp = f"{inputs} {BOOT.read_text().strip() if BOOT.is_file() else uuid4()}\n"
        made_of = self.folder / "made-of.txt"
        if not made_of.is_file() or made_of.read_text() != self._stamp:
            self.start_over()

    def start_over(self) -> None:
        """Delete all that is in the folder."""
        self.discard()
        self.folder.mkdir(parents=True)
        (self.folder / "made-of.txt").write_text(self._stamp)

    def discard(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self._root, ignore_errors=True)


def known_by(files: Iterable[Path]) -> list[tuple[int, ...]]:
    """What the file system knows each input by: to read them would take as long as some of the work."""
    stats = [file.stat() for file in files]
    return [(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) for found in stats]
