"""Resolve a base model: one commit or one digest, used by every later stage."""

from __future__ import annotations

from pathlib import Path

from registry.artifacts import QuantSpec, Relation
from registry.compat.shapes import KEY
from stages.config.base import BaseConfig
from stages.contract import Facts, Parents
from stages.outline import outline_of_model
from stages.untrusted.inspect import inspect

VERSION = 4
TOOLS = ("transformers", "torch", "gguf", "safetensors")
RELATIONS: dict[str, Relation] = {}


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
    reference, described = bases.describe(out, origin)
    metrics = {**described, KEY: outline_of_model(out)}
    return Facts(kind="base", base=reference, quant=QuantSpec(method="none"), metrics=metrics)
