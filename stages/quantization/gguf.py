"""GGUF: one file with tokenizer and chat template, made of the weights alone, served by llama.cpp."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from pathlib import Path
from textwrap import dedent
from typing import Literal

from pydantic import Field, field_validator

from registry.artifacts import QuantSpec
from stages import work
from stages.families.support import gguf_refusal
from stages.formats.gguf import read_gguf
from stages.model_shape import ModelShape
from stages.outline import outline_of_adapter, outline_of_gguf
from stages.quantization.method import Cost, Grid, Made, QuantizationConfig, QuantizationMethod, backend
from stages.quantization.snippets import Exported, Snippet

USUAL_KL = (
    dict.fromkeys(("F32", "F16"), 0.01)
    | dict.fromkeys(("BF16", "Q8_0"), 0.02)
    | {"Q6_K": 0.05}
    | dict.fromkeys(("Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"), 0.1)
    | dict.fromkeys(("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"), 0.3)
    | dict.fromkeys(("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S"), 0.8)
    | {"Q2_K": 2.0}
)
GGUF_TYPES = tuple(USUAL_KL)
"""llama.cpp's file types that need nothing but the weights, from the most to the fewest bits."""

NEED_IMATRIX = ("IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
"""File types that llama.cpp refuses without an importance matrix."""

BITS = (
    {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56}
    | {"Q5_K_M": 5.7, "Q5_K_S": 5.54, "Q5_0": 5.54, "Q4_K_M": 4.85, "Q4_K_S": 4.58, "Q4_0": 4.55}
    | {"Q3_K_M": 3.91, "Q2_K": 3.35}
)
"""Per weight, on average; 8.5 are assumed of the other types."""

CONVERTER = -80_000_000
"""Beside what most stages import: a fork, which touches less of the libraries' code."""

BLOCK = 32
"""Weights that share a scale in most of llama.cpp's types."""


class GgufConfig(QuantizationConfig):
    """GGUF through llama.cpp's own converter and quantizer, both of one commit."""

    method: Literal["gguf"] = "gguf"
    type: str = Field(
        default="Q4_K_M", description="a llama.cpp file type: F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, …"
    )

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        return check_gguf_type(value)

    @property
    def label(self) -> str:
        return f"{self.method}-{self.type.lower()}"

    @property
    def form(self) -> str:
        return self.type


class Gguf(QuantizationMethod[GgufConfig]):
    """Its types are llama.cpp's file types, and so are the forms that a gate's limits name."""

    config = GgufConfig
    name = "GGUF"
    packages = ("llama_cpp",)
    hub_library = "gguf"
    limits = USUAL_KL
    needs_converter = True
    takes_adapters = True

    def quantize(self, config: GgufConfig, model: Path, dataset: Path | None, name: str, out: Path) -> Made:
        effective = backend("gguf.convert", "convert")(model, config.type, name, out)
        return Made(effective, outline_of_gguf(read_gguf(out / "model.gguf").values))

    def quantize_adapter(self, config: GgufConfig, adapter: Path, base: Path, out: Path) -> Made:
        convert = backend("gguf.adapter", "convert_adapter")
        return Made(convert(adapter, base, config.type, "adapter", out), outline_of_adapter(adapter))

    def refusal(self, family: str, architecture: str) -> str | None:
        return gguf_refusal(family, architecture)

    def cost(self, config: GgufConfig, shape: ModelShape, row_length: int) -> Cost:
        """The converter writes 16 bits first; the quantizer holds one tensor in float32 beside its result."""
        return Cost(
            memory_bytes=CONVERTER + shape.vocabulary * shape.hidden * 8,
            disk_bytes=int(shape.parameters * (2 + BITS.get(config.type, 8.5) / 8)),
            work=work.gguf(shape, "K" in config.type),
            note="includes the 16-bit file it starts from",
        )

    def type_of(self, quant: QuantSpec) -> str:
        return str(quant.requested.get("type"))

    def form_of(self, quant: QuantSpec) -> str:
        return str({**quant.effective, **quant.requested}.get("type", self.tag))

    def grid(self, quant: QuantSpec) -> Grid | None:
        bits = re.match(r"I?Q(\d)_", self.type_of(quant))
        return Grid(int(bits[1]), BLOCK, ends=True) if bits else None

    def lose_less(self, quant: QuantSpec) -> str:
        return "take a type with more bits"

    def describe(self, quant: QuantSpec) -> str:
        return f"{self.name} {quant.requested.get('type', '')}".strip()

    def snippets(self, exported: Exported) -> list[Snippet]:
        files = [name for name in exported.files if name.endswith(".gguf")]
        file = f"path/to/this/directory/{files[0] if files else 'model.gguf'}"
        loaded, served = json.dumps(file), shlex.quote(file)
        if exported.is_adapter:
            loaded, served = f'"base.gguf", lora_path={loaded}', f"base.gguf --lora {served}"
        python = dedent(f"""\
            from llama_cpp import Llama

            model = Llama({loaded}, n_ctx=2048, verbose=False)
            messages = {exported.messages}
            answer = model.create_chat_completion(messages, max_tokens=64, temperature=0)
            print(answer["choices"][0]["message"]["content"])
            """)
        return [
            Snippet("llama-cpp-python", "python", python),
            Snippet("llama.cpp", "console", f"$ llama-server --model {served}"),
        ]


def check_gguf_type(name: str) -> str:
    """`name` in llama.cpp's own spelling. Raises ValueError with the nearest and all valid names."""
    upper = name.upper()
    if upper in GGUF_TYPES:
        return upper
    if upper in NEED_IMATRIX:
        raise ValueError(
            f"the GGUF type {name!r} needs an importance matrix, which is not computed here; "
            f"use one of {', '.join(GGUF_TYPES)}"
        )
    near = difflib.get_close_matches(upper, GGUF_TYPES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"llama.cpp has no GGUF type {name!r}; {hint}expected one of {', '.join(GGUF_TYPES)}")
