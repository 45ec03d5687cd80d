"""A merge run on plain directories, and directories changed so that it has to be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from registry.artifacts import BaseReference
from stages.config.merge import MergeConfig
from stages.contract import Facts, Parent
from stages.merge import merge

PEFT_NOTICES = [
    # PEFT's notice on exactly the adapters whose merge is tested here
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning"),
    # PEFT takes the bias of lora_bias=True for a cut matrix
    pytest.mark.filterwarnings("ignore:Adapter 'default'. 2 LoRA tensor.s. have invalid shape"),
]

# Rounding every weight to float16 (11 significant bits) moves the logits of these models by up to about 5e-4
# of their norm; bfloat16 has 8 bits, so eight times that.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2}
ADAPTER, BASE = "adapter_model.safetensors", "model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = "base_model.model.lm_head"


def parent(path: Path, kind: Any = "base", base: BaseReference | None = None) -> Parent:
    return Parent(id="0" * 64, kind=kind, path=path, base=base)


def run(base: Path, adapter: Path, out: Path, /, **config: Any) -> Facts:
    out.mkdir(exist_ok=True)
    return merge({"base": parent(base), "adapter": parent(adapter, "adapter")}, MergeConfig(**config), out)


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit_tensors(file: Path, change: Any) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
