"""Resolve a base model: one commit or one digest, used by every later stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from registry.artifacts import QuantSpec
from registry.compat.shapes import KEY
from stages.contract import Facts, Parents, StageConfig
from stages.outline import outline_of_model
from stages.untrusted.inspect import inspect

VERSION = 4
TOOLS = ("transformers", "torch", "gguf", "safetensors")


class BaseConfig(StageConfig):
    """Where the base model comes from."""

    source: str = Field(
        description="`hub:ORG/NAME@REVISION` (branch, tag or commit; stored as the commit), "
        "`path:DIRECTORY`, `package:DISTRIBUTION/FILE.gguf` (a GGUF shipped in an installed package), or "
        "`pico:SEED` (a 2-layer model with random weights, made on the spot for smoke tests)"
    )
    dtype: Literal["bfloat16", "float16"] = Field(
        default="bfloat16", description="stored dtype when the source has to be converted (GGUF)"
    )
    chat_template: str | None = Field(
        default=None, description="path of a Jinja chat template, for a base that ships none"
    )

    @field_validator("source")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        scheme, _, rest = value.partition(":")
        if scheme not in {"hub", "path", "package", "pico"} or not rest:
            raise ValueError(
                f"{value!r} is no base source; expected hub:ORG/NAME@REVISION, path:DIRECTORY, "
                "package:DISTRIBUTION/FILE.gguf or pico:SEED"
            )
        if scheme == "pico" and not rest.isdecimal():
            raise ValueError(f"{value!r}: the seed of a pico model is a whole number, e.g. pico:0")
        return value


def resolve(parents: Parents, config: BaseConfig, out: Path) -> Facts:
    """Write the base model under `out` as a Hugging Face directory (config, tokenizer, safetensors).

    Returns facts of kind `base` with its reference and quant spec `none`; metrics: `parameters`,
    `bytes` (of the weights), `dtype`, `unused_embedding_rows`, `outline`, for a GGUF `origin_file_sha256`.
    Raises `InvalidInput` for a base that cannot be used or reached, `MissingPackage` for a package that
    is not installed, `InsufficientResources` when the disk has no room for the weights.
    """
    from stages.backends import bases

    origin = bases.fetch(config, out)
    if config.source.startswith(("hub:", "path:")):
        inspect(out)
    reference, metrics = bases.describe(out, origin)
    metrics[KEY] = outline_of_model(out)
    return Facts(kind="base", base=reference, quant=QuantSpec(method="none"), metrics=metrics)
