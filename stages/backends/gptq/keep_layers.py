"""Keep each layer that GPTQModel has finished, and go on after those that an earlier process finished.

GPTQModel 7.6 has checkpoints of its own (`quantize(checkpoint=…)`): for two families only, with a hash of
all earlier layers after each, and with handlers that hold back Ctrl-C until a layer is done. What they rest
on is used here: extensions of its loop, and the adapter that reads and restores the loop's state.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.backends.gptq.unfinished import KeptLayers, UnfinishedLayers
from stages.errors import StageError

log = logging.getLogger("tuneline.quantize")


class UnusableLayers(StageError):
    """Layers of an earlier process are whole, but GPTQModel does not take them."""


class LayerKeeper:
    """An extension of GPTQModel's loop: `on_start` says with which layer to begin, `on_boundary` is called
    after each. `rounded`: the modules that were only rounded to nearest, which only messages tell."""

    def __init__(self, unfinished: UnfinishedLayers, rounded: set[str]) -> None:
        self._unfinished, self._rounded = unfinished, rounded
        self._adapter: Any = None

    def on_start(self, context: Any) -> int:
        """The number of layers that are there. Raises `UnusableLayers`."""
        self._adapter = _adapter(context)
        kept = self._unfinished.newest()
        if kept is None:
            return 0
        try:
            self._restore(kept)
        except Exception as error:  # of any kind: the state is one that the library does not know
            raise UnusableLayers(f"the layers of an earlier attempt cannot be used ({error})") from error
        log.info("%d of %d layers are there from an earlier attempt", kept.count, len(context.plan.steps))
        return kept.count

    def on_boundary(self, boundary: Any) -> None:
        """Keep what is finished; where that cannot be, say so once and let the quantization go on."""
        if self._adapter is None:
            return
        boundary.quiesce()
        try:
            self._keep(boundary.step.index + 1)
        except (TypeError, NotImplementedError, OSError) as error:
            log.warning("layers are not kept, a killed quantization would begin anew: %s", error)
            self._adapter = None

    def _keep(self, count: int) -> None:
        loop, packed = self._adapter.capture()
        unkept = [name for name, path in packed.items() if not isinstance(path, Path)]
        if unkept:
            raise TypeError(f"{unkept[0]} is not on disk")
        for processor in loop["processors"]:  # the rest of it, the same for all layers, is made anew
            processor["cache"] = processor["cache"].layer_inputs
        network = self._adapter.model.model
        buffers = {name: list(network.get_submodule(name)._buffers) for name in packed}
        state = {"loop": loop, "buffers": buffers, "rounded": sorted(self._rounded)}
        self._unfinished.keep(count, packed, state)

    def _restore(self, kept: KeptLayers) -> None:
        state = kept.state()
        loop = state["loop"]
        for processor, record in zip(self._adapter.processors, loop["processors"], strict=True):
            now = processor.inputs_cache.unwrap()
            record["cache"] = dataclasses.replace(now, layer_inputs=record["cache"])
        self._adapter.restore(loop, kept.modules)
        for name, names in state["buffers"].items():
            buffers = self._adapter.model.model.get_submodule(name)._buffers
            for buffer in names:  # the library saves them in the order in which it finds them
                buffers[buffer] = buffers.pop(buffer)
        self._rounded.update(state["rounded"])


@contextmanager
def kept_by(keeper: LayerKeeper) -> Iterator[None]:
    """While this lasts, `keeper` extends the loop of every quantization of GPTQModel."""
    from gptqmodel.looper import module_looper

    plain = module_looper.ModuleLooper

    class KeepingLooper(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, extensions: tuple[Any, ...] = (), **others: Any) -> None:
            super().__init__(*args, extensions=(*extensions, keeper), **others)

    module_looper.ModuleLooper = KeepingLooper
    try:
        yield
    finally:
        module_looper.ModuleLooper = plain


def _adapter(context: Any) -> Any:
    """The library's adapter on a loop, without the digest of all inputs that its own `bind` makes."""
    from gptqmodel.looper.gptq_checkpoint import QuantizationCheckpointAdapter

    adapter: Any = QuantizationCheckpointAdapter()
    adapter.execution, adapter.model = context.execution, context.model
    adapter.processors, adapter.processor = context.processors, context.processors[0]
    adapter.shared_state = context.shared_state
    adapter.offload = Path(context.model.quantize_config.offload_to_disk_path)
    adapter._artifacts = {}
    return adapter
