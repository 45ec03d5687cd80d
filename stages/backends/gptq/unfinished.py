"""The layers of a quantization under way: those that are finished are not quantized again after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.backends.gptq.state import put_together, taken_apart
from stages.backends.safetensors import CODES, TensorFiles, TensorSpec, write_file
from stages.backends.unfinished import Unfinished

PACKED = "module.safetensors"
"""GPTQModel's name of a packed module in the folder that it parks it in."""


@dataclass(frozen=True)
class KeptLayers:
    """The first `count` layers: the packed file of each module, and where the loop over the layers stood."""

    count: int
    modules: dict[str, Path]
    document: Any
    tensors: Path

    def state(self) -> Any:
        """Values and tensors as they were kept."""
        files = TensorFiles([self.tensors])
        return put_together(self.document, lambda number: files.read(str(number)))


class UnfinishedLayers(Unfinished):
    """`out/checkpoints/gptq`: `offload`, where GPTQModel parks the modules that it has packed; after each
    layer `layers-N.safetensors` with what the next one needs, and `layers-N.json`, written last."""

    def __init__(self, out: Path, inputs: str) -> None:
        super().__init__(out, "gptq", inputs)
        self.offload = self.folder / "offload"
        self._clear(self.newest())

    def newest(self) -> KeptLayers | None:
        """The most layers that are there whole; None where no layer is."""
        found = [int(file.stem.partition("-")[2]) for file in self.folder.glob("layers-*.json")]
        return next((kept for count in sorted(found, reverse=True) if (kept := self._kept(count))), None)

    def keep(self, count: int, modules: Mapping[str, Path], state: Any) -> None:
        """Keep the first `count` layers; `modules`: name → the packed file of each of them.

        Raises `TypeError` for a state that cannot be kept, `OSError` where the disk does not take it.
        """
        tensors: list[Any] = []
        document = taken_apart(state, tensors)
        if strange := {str(tensor.dtype) for tensor in tensors} - {str(dtype) for dtype in CODES}:
            raise TypeError(f"a tensor of {min(strange)} cannot be kept")
        file = self.folder / f"layers-{count}.safetensors"
        part = file.with_name(f"{file.name}.part")
        specs = [TensorSpec(str(n), CODES[each.dtype], tuple(each.shape)) for n, each in enumerate(tensors)]
        write_file(part, specs, lambda name: tensors[int(name)].detach().cpu())
        part.rename(file)
        sizes = {name: path.stat().st_size for name, path in modules.items()}
        record = {"bytes": file.stat().st_size, "modules": sizes, "state": document}
        part = self.folder / f"layers-{count}.json.part"
        part.write_text(json.dumps(record))
        part.rename(self.folder / f"layers-{count}.json")
        self._clear_states(count)

    def _kept(self, count: int) -> KeptLayers | None:
        try:
            record = json.loads((self.folder / f"layers-{count}.json").read_text())
        except ValueError:
            return None
        tensors = self.folder / f"layers-{count}.safetensors"
        modules = {name: self.offload / name / PACKED for name in record["modules"]}
        expected = {tensors: record["bytes"]} | {modules[name]: n for name, n in record["modules"].items()}
        if any(not path.is_file() or path.stat().st_size != size for path, size in expected.items()):
            return None
        return KeptLayers(count, modules, record["state"], tensors)

    def _clear(self, kept: KeptLayers | None) -> None:
        """Delete what is left of the layer that was under way, and of a model that was being saved."""
        names = {"offload", "made-of.txt"}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path)
        self._clear_states(kept.count if kept else None)
        for path in self.offload.iterdir() if self.offload.is_dir() else ():
            if kept is None or path.name not in kept.modules:
                shutil.rmtree(path)

    def _clear_states(self, count: int | None) -> None:
        """Delete all states but that of the first `count` layers; each record before its tensors."""
        for file in sorted(self.folder.glob("layers-*")):
            if file.name.split(".")[0] != f"layers-{count}":
                file.unlink()
