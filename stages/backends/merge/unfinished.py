"""The files of a merge under way: what is finished is not made again after the process was killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

from stages.backends.safetensors import FileLayout

BOOT = Path("/proc/sys/kernel/random/boot_id")


class UnfinishedMerge:
    """`out/checkpoints/merge`: a file there has `.part` behind its name until all of its tensors are written.

    Finished files of the same `inputs` are taken over, unless the system was started anew since: a process
    that is killed loses nothing that it has written, a system that goes down does. To wait for the disk after
    each file would take as long as much of the merge.
    """

    def __init__(self, out: Path, inputs: str) -> None:
        self._out, self.folder = out, out / "checkpoints" / "merge"
        stamp = f"{inputs} {BOOT.read_text().strip() if BOOT.is_file() else uuid4()}\n"
        made_of = self.folder / "made-of.txt"
        if not made_of.is_file() or made_of.read_text() != stamp:
            self.discard()
            self.folder.mkdir(parents=True)
            made_of.write_text(stamp)

    def finished(self, file: FileLayout) -> float | None:
        """The largest absolute value in a file that is finished; None for any other."""
        path, figures = self.folder / file.name, self._figures(file)
        if not path.is_file() or not figures.is_file() or path.stat().st_size != file.size:
            return None
        return float(json.loads(figures.read_text())["largest_absolute_value"])

    def begin(self, file: FileLayout) -> Path:
        """The path of a file that has its header and no tensors yet."""
        path = self.folder / f"{file.name}.part"
        path.write_bytes(file.header)
        return path

    def finish(self, file: FileLayout, largest: float) -> None:
        """All tensors of a file are written."""
        self._figures(file).write_text(json.dumps({"largest_absolute_value": largest}))
        (self.folder / f"{file.name}.part").rename(self.folder / file.name)

    def publish(self, files: list[FileLayout]) -> None:
        """Move the finished `files` into `out`."""
        for file in files:
            (self.folder / file.name).rename(self._out / file.name)
        self.discard()

    def discard(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self._out / "checkpoints", ignore_errors=True)

    def _figures(self, file: FileLayout) -> Path:
        return self.folder / f"{file.name}.json"
