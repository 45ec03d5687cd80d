"""Merge an adapter into 16-bit weights, on the CPU, a few tensors at a time."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from registry.artifacts import BaseReference, QuantSpec, Relation
from registry.compat.base_reference import differing
from registry.compat.shapes import KEY
from registry.errors import Incompatible
from stages.config.merge import MergeConfig
from stages.contract import Facts, Parent, Parents, toolchain
from stages.formats.gguf_types import TemplateDigest
from stages.outline import outline_of_model
from stages.training_record import TrainingRecord, recorded_nf4, training_record
from stages.untrusted.tokenizer import template_of

VERSION = 4
TOOLS = ("torch", "safetensors", "transformers", "bitsandbytes")
RELATIONS: dict[str, Relation] = {"base": "merge", "adapter": "merge"}


def merge(parents: Parents, config: MergeConfig, out: Path) -> Facts:
    """Merge `parents["adapter"]` into `parents["base"]`; write a Hugging Face directory under `out`.

    W' = W + s·B·A in float32, then rounded to `config.dtype`; s = alpha/r, or alpha/√r with rsLoRA
    (Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732).
    Facts of kind `merged`; metrics: tensors merged, replaced, copied; largest absolute value; dtype.
    Raises `Incompatible` when the adapter was trained on another base, `InvalidInput` for anything
    in base or adapter that cannot be merged exactly; both before anything is written.
    """
    base, adapter = parents["base"], parents["adapter"]
    record = training_record(adapter)
    _same_base(base, adapter, record)

    from stages.backends.merge.merge import merge_adapter

    nf4 = recorded_nf4(adapter) if config.base == "nf4" else None
    metrics = merge_adapter(base.path, adapter.path, out, config.dtype, nf4, config.shard_size)
    return Facts(
        kind="merged",
        base=base.base,
        quant=QuantSpec(
            method="none",
            requested={"dtype": config.dtype},
            effective={
                "dtype": config.dtype,
                "bits_per_weight": 8 * metrics["bytes"] / metrics["parameters"],
                **_own_template(base, out),
            },
            merge_base=config.candidates[0].base,
            toolchain=toolchain(TOOLS),
        ),
        metrics={**metrics, KEY: outline_of_model(out)},
    )


def _own_template(base: Parent, merged: Path) -> dict[str, TemplateDigest]:
    """What an engine has to know where the adapter brought another chat template than its base's."""
    settings = merged / "tokenizer_config.json"
    template = template_of(merged, json.loads(settings.read_text("utf-8")) if settings.is_file() else {})
    digest = None if template is None else sha256(template.encode()).hexdigest()
    if base.base is None or digest == base.base.chat_template_digest:
        return {}
    return {"chat_template": {"present": template is not None, "sha256": digest}}


def _same_base(base: Parent, adapter: Parent, record: TrainingRecord) -> None:
    trained_on = adapter.base
    if trained_on is None and record.get("base"):
        trained_on = BaseReference.model_validate(
            {key: value for key, value in record["base"].items() if key != "id"}
        )
    if trained_on is None or base.base is None:
        return
    if differ := [difference.name for difference in differing(base.base, trained_on)]:
        raise Incompatible(
            f"adapter {adapter.id[:12]} was trained on {trained_on.source} at {trained_on.revision[:12]}, "
            f"but the base to merge into is {base.base.source} at {base.base.revision[:12]} (they differ in "
            f"{', '.join(differ)}); merge into the base it was trained on, or train again"
        )
