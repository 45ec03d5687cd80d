"""An adapter that changes nothing and costs what one of its rank costs: to time steps with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

_LINEAR = re.compile(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight")


def write_blank_adapter(base: Path, rank: int, file: Path) -> None:
    """A GGUF LoRA of zeros in F16 on all linear layers of the blocks of the GGUF model `base`."""
    import gguf

    reader = gguf.GGUFReader(base)
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(file, architecture.contents())
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for tensor in reader.tensors:
        if _LINEAR.fullmatch(tensor.name):
            inputs, outputs = (int(size) for size in tensor.shape)
            writer.add_tensor(f"{tensor.name}.lora_a", np.zeros((rank, inputs), np.float16))
            writer.add_tensor(f"{tensor.name}.lora_b", np.zeros((outputs, rank), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
