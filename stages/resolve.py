"""Resolve a base model: one commit or one digest, used by every later stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from stages.contract import Facts, Parents, StageConfig

VERSION = 1
TOOLS = ("transformers", "torch", "gguf", "safetensors")


class BaseConfig(StageConfig):
    """Where the base model comes from."""

    source: str = Field(
        description="`hub:ORG/NAME@REVISION` (branch, tag or commit; stored as the commit), "
        "`path:DIRECTORY`, or `package:DISTRIBUTION/FILE.gguf` (a GGUF shipped in an installed package)"
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
        if value.partition(":")[0] not in {"hub", "path", "package"} or not value.partition(":")[2]:
            raise ValueError(
                f"{value!r} is no base source; expected hub:ORG/NAME@REVISION, path:DIRECTORY "
                "or package:DISTRIBUTION/FILE.gguf"
            )
        return value


def resolve(parents: Parents, config: BaseConfig, out: Path) -> Facts:
    """Write the base model under `out` as a Hugging Face directory (config, tokenizer, safetensors).

    Returns facts of kind `base` with its reference and quant spec `none`; metrics: `parameters`,
    `bytes`, `dtype`, `origin_file_sha256` for a GGUF.
    """
    raise NotImplementedError
