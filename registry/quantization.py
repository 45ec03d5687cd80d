"""The quantization methods that a manifest can name, and what everyone who reads one has to know of each.

How a method is asked for, computed, estimated and described is in `stages/quantization/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

QuantMethod = Literal["none", "bnb", "gptq", "gguf"]
"""At most eight characters, as the database's column."""


class Stored(NamedTuple):
    """`form`: `safetensors` with a value for each weight, `packed` ones with several in each value as GPTQ
    does, or a `gguf` file, which brings its own tokenizer and chat template; `engine`: what serves it."""

    form: Literal["safetensors", "packed", "gguf"]
    engine: Literal["llama.cpp", "vllm"] | None

    @property
    def is_gguf(self) -> bool:
        return self.form == "gguf"

    @property
    def is_packed(self) -> bool:
        return self.form == "packed"


STORED: Mapping[QuantMethod, Stored] = {
    "none": Stored("safetensors", "vllm"),
    "bnb": Stored("safetensors", None),  # of adapters alone: their base was in NF4 in training
    "gptq": Stored("packed", "vllm"),
    "gguf": Stored("gguf", "llama.cpp"),
}


def served_by(engine: str) -> frozenset[QuantMethod]:
    """The methods whose files an engine reads."""
    return frozenset(method for method, stored in STORED.items() if stored.engine == engine)
