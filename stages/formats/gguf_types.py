"""What a GGUF file is said to be, and what its tensors are."""

from __future__ import annotations

import re
from typing import Literal, TypedDict

from stages.formats.gguf import GgufDescription
from stages.formats.model_files import sha256_of_text


class TemplateDigest(TypedDict):
    """Whether there is a chat template, and its sha256."""

    present: bool
    sha256: str | None


class Fallbacks(TypedDict):
    """How many of a file's matrices (`of`) are not of the main type, `wanted`, and of which they are.

    `rows_not_divisible`: those whose rows are not a multiple of the type's `block`.
    """

    wanted: str
    of: int
    count: int
    by_type: dict[str, int]
    rows_not_divisible: int
    block: int


class StoredGguf(TypedDict):
    """What a GGUF file's tensors are: types → tensors, bytes, and bits per parameter without and with the
    rest of the file."""

    format: Literal["gguf"]
    file_type: str
    types: dict[str, int]
    parameters: int
    bytes: int
    bits_per_weight: float
    file_bits_per_weight: float
    architecture: object


class EffectiveGguf(StoredGguf):
    """The effective config of a model's file."""

    fallbacks: Fallbacks
    pre_tokenizer: object
    chat_template: TemplateDigest


def describe(file: GgufDescription, file_type: str) -> EffectiveGguf:
    """The effective config of a GGUF file that was asked to be `file_type`."""
    template = file.values.get("tokenizer.chat_template")
    return {
        **stored(file, file_type),
        "fallbacks": _fallbacks(file, file_type),
        "pre_tokenizer": file.values.get("tokenizer.ggml.pre", file.values.get("tokenizer.ggml.model")),
        "chat_template": {
            "present": template is not None,
            "sha256": sha256_of_text(str(template)) if template is not None else None,
        },
    }


def stored(file: GgufDescription, file_type: str) -> StoredGguf:
    """What is alike in files of models and of adapters."""
    return {
        "format": "gguf",
        "file_type": file_type,
        "types": file.types(),
        "parameters": file.parameters,
        "bytes": file.file_bytes,
        "bits_per_weight": 8 * file.tensor_bytes / file.parameters,
        "file_bits_per_weight": 8 * file.file_bytes / file.parameters,
        "architecture": file.values.get("general.architecture"),
    }


def main_type(file_type: str) -> str:
    """The tensor type that gives a file type its name: Q4_K_M → Q4_K. Mixes hold others too, by design."""
    return {"IQ3_M": "IQ3_S"}.get(file_type, re.sub(r"(?<=_K)_[SML]$", "", file_type))


def _fallbacks(file: GgufDescription, file_type: str) -> Fallbacks:
    """Weight matrices that are not of the main type, and of these the ones whose rows cannot be.

    llama.cpp keeps one-dimensional tensors in F32 always, so they are not counted.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    wanted = main_type(file_type)
    block = GGML_QUANT_SIZES[GGMLQuantizationType[wanted]][0]
    matrices = [tensor for tensor in file.tensors if len(tensor.shape) > 1]
    others = [tensor for tensor in matrices if tensor.type != wanted]
    types = sorted({tensor.type for tensor in others})
    return {
        "wanted": wanted,
        "of": len(matrices),
        "count": len(others),
        "by_type": {kind: sum(tensor.type == kind for tensor in others) for kind in types},
        "rows_not_divisible": sum(tensor.shape[0] % block != 0 for tensor in others),
        "block": block,
    }
