"""Untrusted GGUF files: what they hold, that it is finite, and whose vocabulary it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from stages.errors import InvalidInput
from stages.formats.gguf import GgufDescription, GgufTensor, read_gguf
from stages.formats.gguf_types import EffectiveGguf, describe, main_type

TOKENS = "tokenizer.ggml.tokens"

_SCALES = {  # block type → bytes of a block, and where in it its 16-bit scales stand (ggml-common.h)
    "Q4_0": (18, (0,)), "Q4_1": (20, (0, 2)), "Q5_0": (22, (0,)), "Q5_1": (24, (0, 2)), "Q8_0": (34, (0,)),
    "Q2_K": (84, (80, 82)), "Q3_K": (110, (108,)), "Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)),
    "Q6_K": (210, (208,)), "IQ4_NL": (18, (0,)), "IQ4_XS": (136, (0,)), "IQ3_S": (110, (0,)),
    "IQ3_XXS": (98, (0,)), "IQ2_S": (82, (0,)), "IQ2_XS": (74, (0,)), "IQ2_XXS": (66, (0,)),
    "IQ1_S": (50, (0,)),
}  # fmt: skip
_FLOATS = {"F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
_CHUNK_BLOCKS = 100_000


def read(file: Path) -> GgufDescription:
    """The description, with the tokens. Raises `InvalidInput` for a file that is no language model."""
    description = read_gguf(file, frozenset({TOKENS}))
    architecture = description.values.get("general.architecture")
    if not isinstance(architecture, str) or not description.tensors or not description.parameters:
        raise InvalidInput(
            f"{file.name} does not describe a model (general.architecture: {architecture!r:.60})"
        )
    if description.values.get("general.type", "model") != "model":
        raise InvalidInput(
            f"{file.name} is a GGUF of type {description.values['general.type']!r:.40}, expected a language "
            "model"
        )
    if not description.texts.get(TOKENS):
        raise InvalidInput(f"{file.name} holds no vocabulary ({TOKENS}); expected a language model's file")
    return description


def read_adapter(file: Path) -> GgufDescription | None:
    """The description of a LoRA for llama.cpp, None for anything else.

    Raises `InvalidInput` for a damaged file, or an adapter of another kind.
    """
    description = read_gguf(file)
    if description.values.get("general.type") != "adapter":
        return None
    names = {tensor.name for tensor in description.tensors}
    modules = {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in names}
    pairs = {f"{module}.{factor}" for module in modules for factor in ("lora_a", "lora_b")}
    if description.values.get("adapter.type") != "lora" or not names or names != pairs:
        raise InvalidInput(
            f"{file.name} says it is an adapter and holds no whole pairs of LoRA factors; convert it again "
            "from its PEFT directory"
        )
    return description


def effective(description: GgufDescription) -> tuple[EffectiveGguf, bool]:
    """The effective quantization, as for files made here, and whether the file names its own type."""
    named = _file_type(description.values.get("general.file_type"))
    described = describe(description, named or _usual_type(description))
    return described, named is not None


def require_finite(file: Path, description: GgufDescription) -> list[str]:
    """Raise `InvalidInput` for NaN or infinity in floats and in the scales of quantized blocks.

    Returns the types whose blocks are not looked into.
    """
    import numpy as np

    unknown = set()
    with file.open("rb") as stream:
        for tensor in description.tensors:
            stream.seek(tensor.start)
            if tensor.type in _FLOATS:
                code, mask = _FLOATS[tensor.type]
                block: tuple[int, tuple[int, ...]] = (np.dtype(code).itemsize, (0,))
            elif tensor.type in _SCALES:
                block, code, mask = _SCALES[tensor.type], "<u2", 0x7C00
            else:
                if not tensor.type.startswith("I"):
                    unknown.add(tensor.type)
                continue
            _scan(stream, tensor, block, np.dtype(code), mask, file.name)
    return sorted(unknown)


def _scan(
    stream: Any, tensor: GgufTensor, block: tuple[int, tuple[int, ...]], bits: Any, mask: int, name: str
) -> None:
    import numpy as np

    width, places = block
    left = tensor.nbytes // width
    while left:
        count = min(left, _CHUNK_BLOCKS)
        raw = stream.read(count * width)
        if len(raw) < count * width:
            raise InvalidInput(f"{name} became shorter while it was read; leave it alone and try again")
        blocks = np.frombuffer(raw, np.uint8).reshape(count, width)
        for place in places:
            scales = np.ascontiguousarray(blocks[:, place : place + bits.itemsize]).view(bits)
            if bool(((scales & bits.type(mask)) == mask).any()):
                raise InvalidInput(
                    f"tensor {tensor.name} in {name} holds NaN or infinite values; convert it again from a "
                    "model whose weights are finite"
                )
        left -= count


def _file_type(number: Any) -> str | None:
    from gguf.constants import GGMLQuantizationType, LlamaFileType

    try:
        name = LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None
    return name if main_type(name) in GGMLQuantizationType.__members__ else None


def _usual_type(description: GgufDescription) -> str:
    """The type that holds most of the weights."""
    held: Counter[str] = Counter()
    for tensor in description.tensors:
        held[tensor.type] += tensor.elements
    return held.most_common(1)[0][0]
