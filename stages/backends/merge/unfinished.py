"""The files of a merge under way: what is finished is not made again after the process was killed."""

from __future__ import annotations

import json
from pathlib import Path

from stages.backends.safetensors import FileLayout
from stages.backends.unfinished import Unfinished


class UnfinishedMerge(Unfinished):
    """`out/checkpoints/merge`: shards of the merged model."""

    def __init__(self, out: Path, inputs: str) -> None:
        super().__init__(out, "merge", inputs)
        self._out = out

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

    def _figures(self, file: FileLayout) -> Path:
        return self.folder / f"{file.name}.json"
