"""Adapters kept beside a llama.cpp model at little more than the size of their files.

llama.cpp makes the graphs of a context large enough for all adapters of its model at once, though only one
is in use here: more than 1 MB for each adapter of 210 modules, and a longer switch. So the adapters belong to
a second description of the same file, without weights and vocabulary; the model has only one, of rank 1, with
as many modules as the largest: the room that the graphs need. llama.cpp finds the tensors of an adapter
by the names of the weights, so it applies to either (a test holds the pinned version to it, bit for bit).
"""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp as low
import numpy as np

from serving.errors import NotServable
from serving.llama_cpp.bindings import Adapter


class AdapterHost:
    """The adapters of one model. `model` must outlive it."""

    def __init__(self, path: Path, model: Any) -> None:
        """`path`: the GGUF file of `model`. Raises `NotServable` when it can no longer be read."""
        params = low.llama_model_default_params()
        params.no_alloc = True
        params.load_mode = low.LLAMA_LOAD_MODE_NONE
        params.use_extra_bufts = False  # an adapter cannot be kept in those
        no_vocabulary = (low.llama_model_kv_override * 2)()
        no_vocabulary[0].key, no_vocabulary[0].tag = b"tokenizer.ggml.model", low.LLAMA_KV_OVERRIDE_TYPE_STR
        no_vocabulary[0].value.val_str = b"none"
        params.kv_overrides = ctypes.cast(no_vocabulary, type(params.kv_overrides))
        self._model = model
        self._description = low.llama_model_load_from_file(str(path).encode(), params)
        if not self._description:
            raise NotServable(f"{path}: llama.cpp can no longer read this file; see the engine's log")
        self.room = 0
        """Modules of one adapter that the model's graphs can hold."""

    def load(self, path: Path) -> Adapter:
        """Raises `NotServable` for a file that is not a LoRA, or not one for this model."""
        adapter = _loaded(self._description, path)
        try:
            self._make_room(path)
        except Exception as error:  # a reader of untrusted files; the engine has to outlive it
            self.free(adapter)
            message = f"{path}: the engine could not make room for this adapter: {error!r}"
            raise NotServable(message) from error
        return adapter

    def free(self, adapter: Adapter) -> None:
        """It must not be in use."""
        low.llama_adapter_lora_free(adapter)

    def close(self) -> None:
        """Free everything, the adapters too."""
        low.llama_model_free(self._description)

    def _make_room(self, path: Path) -> None:
        import gguf

        reader = gguf.GGUFReader(path)
        down = [tensor for tensor in reader.tensors if tensor.name.endswith(".lora_a")]
        if len(down) <= self.room:
            return
        shapes = {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in reader.tensors}
        architecture = reader.get_field("general.architecture").contents()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "room.gguf"
            writer = gguf.GGUFWriter(file, architecture)
            writer.add_string("general.type", "adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", 1.0)
            for tensor in down:
                name = tensor.name.removesuffix(".lora_a")
                inputs, outputs = shapes[tensor.name], shapes[f"{name}.lora_b"][1]
                embedding = name.endswith("token_embd.weight")  # llama.cpp keeps the rank of its A first
                first = (inputs[1], 1) if embedding else (1, inputs[0])
                writer.add_tensor(tensor.name, np.zeros(first, np.float16))
                writer.add_tensor(f"{name}.lora_b", np.zeros((outputs, 1), np.float16))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            _loaded(self._model, file)
        self.room += len(down)


def _loaded(model: Any, path: Path) -> Adapter:
    adapter = low.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        raise NotServable(f"{path}: llama.cpp cannot put this adapter on the model; see the engine's log")
    return adapter
