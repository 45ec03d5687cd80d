"""The compatibility contract as the stages enforce it: before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from registry.compat import contract
from registry.compat.model import Described, Use, pair
from registry.compat.shapes import Nf4Recipe
from registry.quantization import STORED
from serving.engine.capabilities import limits
from stages.families.support import known_to_llama_cpp
from stages.quantization.method import QuantizationConfig


def require_compatible(stage: str, config: Any, parents: Mapping[str, Described]) -> None:
    """Raise Incompatible where the contract refuses what `stage` is about to do with `parents`.

    A parent without a base reference is a plain directory of somebody else's: the stage looks at its files.
    """
    model, base, adapter = parents.get("model"), parents.get("base"), parents.get("adapter")
    host = base if stage in ("merge", "train") else model
    if adapter is not None and host is not None:
        recipe = getattr(config, "nf4", None)
        trained = None if recipe is None else Nf4Recipe.model_validate(recipe.model_dump())
        use = Use(recipe=trained, measured=stage == "evaluate")
        _require(host, adapter, use, f"the adapter does not go onto this {host.kind}")
    if stage == "evaluate" and base is not None and model is not None and model.quant and model.quant.is_gguf:
        _require(base, model, Use(rendering=True), "this base cannot render chats for the GGUF file")
    if isinstance(config, QuantizationConfig) and STORED[config.method].is_gguf and model is not None:
        # what llama.cpp could not apply once it is converted; that it is none yet is no reason
        taken = replace(limits("llama.cpp"), gguf_adapters=False)
        engine = taken if model.kind == "adapter" else None
        use = Use(engine, naming=True, architectures=known_to_llama_cpp())
        _require(model, None, use, f"this {model.kind} cannot become a GGUF file")
        if engine is not None and base is not None:
            _require(base, model, Use(), "this adapter was not made for this base")
    if stage == "deploy" and base is not None and model is not None:
        _require(base, model, Use(), f"this {model.kind} model was not made from this base")


def _require(base: Described, dependent: Described | None, use: Use, what: str) -> None:
    if base.base is not None and (dependent is None or dependent.base is not None):
        contract.require(pair(base, dependent, use), what)
