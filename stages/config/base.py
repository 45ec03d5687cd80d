"""Where a base model comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from stages.contract import StageConfig


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
                f"{value!r} is not a base source; expected hub:ORG/NAME@REVISION, path:DIRECTORY, "
                "package:DISTRIBUTION/FILE.gguf or pico:SEED"
            )
        if scheme == "pico" and not rest.isdecimal():
            raise ValueError(f"{value!r}: the seed of a pico model is a whole number, e.g. pico:0")
        return value
