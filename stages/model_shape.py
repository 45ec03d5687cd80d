"""The size and shape of a base model from its metadata alone: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from stages.errors import InvalidInput
from stages.families.blocks import block_of
from stages.families.config_names import positions, text_config
from stages.formats.model_directory import ModelDirectory
from stages.formats.packaged import packaged_gguf
from stages.outline import gguf_positions
from stages.untrusted.json import MEGABYTE, read_object

PICO = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""config.json of `pico:SEED`; a test compares it with the model that is made."""

_COUNTS = ("layers", "hidden", "intermediate", "vocabulary", "heads", "kv_heads", "head_size")

LARGEST_CONFIG = 10 * MEGABYTE
HUB_SECONDS = 5.0
"""One request for config.json, once; the hub's own client would retry for 24 seconds."""


@dataclass(frozen=True)
class ModelShape:
    """Counts are numbers of parameters unless the name says bytes."""

    source: str
    architecture: str
    family: str
    """`model_type`; empty where only a GGUF header says what it is."""
    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool
    gated: bool
    """Whether the MLP has a gate beside its two other matrices; asked of families without a known block."""
    linear_parameters: int
    """What bitsandbytes packs into NF4: the linear layers, without embedding and head."""
    stored_bytes: int
    positions: int | None = None
    """Tokens that it can read; None: not stated."""
    experts: int = 0
    """Of each block; 0 where it is no mixture."""
    expert_width: int = 0
    shared_width: int = 0
    """Of the expert that every token passes."""

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Input and output width of the linear layers of a decoder block, in the family's own names."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        widths = {
            "hidden": self.hidden,
            "queries": queries,
            "keys": keys,
            "fused": queries + 2 * keys,
            "inner": self.intermediate,
            "gate_up": 2 * self.intermediate,
            "shared": self.shared_width,
            "one": 1,
        }
        layers = block_of(self.family, self.gated, bool(self.experts))
        return {name: (widths[inputs], widths[outputs]) for name, (inputs, outputs) in layers.items()}

    def packed_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Input and output width of what GPTQ packs, and how many a block has: experts too."""
        shapes = {name: (*widths, 1) for name, widths in self.linear_shapes().items()}
        if self.experts:
            shapes["experts.up_proj"] = (self.hidden, self.expert_width, 2 * self.experts)
            shapes["experts.down_proj"] = (self.expert_width, self.hidden, self.experts)
        return shapes

    @property
    def packed_parameters(self) -> int:
        """What GPTQ packs."""
        return self.layers * sum(prod(shape) for shape in self.packed_shapes().values())


def describe_base(source: str) -> ModelShape:
    """Shape of `hub:ORG/NAME@REVISION`, `path:DIRECTORY`, `package:DISTRIBUTION/FILE.gguf` or `pico:SEED`.

    Reads config.json and safetensors headers, or a GGUF header. Raises `InvalidInput` when the base is not
    there or not reachable, `MissingPackage` when its package is not installed.
    """
    try:
        shape = _described(source)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InvalidInput(
            f"{source}: its {_described_in(source)} does not describe a language model "
            f"({type(error).__name__}: {error}); choose another base"
        ) from error
    if least := next((name for name in _COUNTS if getattr(shape, name) < 1), None):
        raise InvalidInput(
            f"{source}: its {_described_in(source)} does not describe a language model ({least}: "
            f"{getattr(shape, least)}, expected 1 or more); choose another base"
        )
    return shape


def _described_in(source: str) -> str:
    return "GGUF header" if source.startswith("package:") else "config.json"


def _described(source: str) -> ModelShape:
    scheme, _, place = source.partition(":")
    if scheme == "pico":
        return _from_config(source, PICO, "config of a pico model")
    if scheme == "package":
        return describe_gguf(packaged_gguf(place), source)
    if scheme == "hub":
        return _from_config(source, _hub_config(source, place), "config.json on the hub")
    folder = Path(place).expanduser()
    file = folder / "config.json"
    if not file.is_file():
        raise InvalidInput(f"{source}: no {file}; expected a Hugging Face model directory")
    return _from_folder(source, folder, read_object(file, LARGEST_CONFIG))


def _from_config(source: str, config: Mapping[str, Any], where: str) -> ModelShape:
    """Counts from a Llama-like config; experts of a mixture count as parameters that stay in 16 bits."""
    config = text_config(config, source)
    try:
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        heads, vocabulary = int(config["num_attention_heads"]), int(config["vocab_size"])
        intermediate = int(config.get("intermediate_size") or 4 * hidden)
        experts = int(config.get("num_experts") or 0)
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{source}: {where} has no {error}, under any name that decoder language models use "
            f"(model_type {config.get('model_type', 'unknown')}); choose another base"
        ) from error
    shape = ModelShape(
        source=source,
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        family=str(config.get("model_type", "")),
        parameters=0,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
        heads=heads,
        kv_heads=int(config["num_key_value_heads"] or heads),
        head_size=int(config.get("head_dim") or hidden // heads),
        tied=bool(config.get("tie_word_embeddings")),
        gated=True,
        linear_parameters=0,
        stored_bytes=0,
        experts=experts,
        expert_width=int(config.get("moe_intermediate_size") or intermediate) if experts else 0,
        shared_width=int(config.get("shared_expert_intermediate_size") or 0),
        positions=positions(config),
    )
    linear = layers * sum(prod(widths) for widths in shape.linear_shapes().values())
    embeddings = vocabulary * hidden * (1 if shape.tied else 2)
    parameters = shape.packed_parameters + embeddings + hidden * (2 * layers + 1)
    width = 4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    return replace(shape, parameters=parameters, linear_parameters=linear, stored_bytes=parameters * width)


def _from_folder(source: str, folder: Path, config: Mapping[str, Any]) -> ModelShape:
    model = ModelDirectory(folder)
    counted = {
        "parameters": model.parameters,
        "linear_parameters": _linear((name, shape) for name, (_, shape) in model.shapes.items()),
        "stored_bytes": model.nbytes,
    }
    return ModelShape(**{**vars(_from_config(source, config, "its config.json")), **counted})


def describe_gguf(file: Path, source: str = "") -> ModelShape:
    """Shape of the model in a GGUF file, from its header; `source` is its name. Raises `InvalidInput`."""
    from stages.formats.gguf import read_gguf

    source, file_header = source or str(file), read_gguf(file)
    architecture = file_header.values.get("general.architecture", "unknown")

    def value(key: str, default: int | None = None) -> int:
        number = file_header.values.get(f"{architecture}.{key}", default)
        if not isinstance(number, int) or number < 1:
            raise InvalidInput(
                f"{source}: its GGUF header has no {architecture}.{key} from 1 on; expected a language model"
            )
        return number

    hidden, heads = value("embedding_length"), value("attention.head_count")
    names = {tensor.name for tensor in file_header.tensors}
    return ModelShape(
        source=source,
        architecture=str(architecture),
        family="",
        parameters=file_header.parameters,
        layers=value("block_count"),
        hidden=hidden,
        intermediate=value("feed_forward_length"),
        vocabulary=file_header.lengths.get("tokenizer.ggml.tokens", 0),
        heads=heads,
        kv_heads=value("attention.head_count_kv", heads),
        head_size=value("attention.key_length", hidden // heads),
        tied="output.weight" not in names,
        gated=any(".ffn_gate." in name for name in names),
        linear_parameters=_linear((tensor.name, tensor.shape) for tensor in file_header.tensors),
        stored_bytes=file_header.file_bytes,
        positions=gguf_positions(file_header.values),
    )


def _linear(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """Parameters of the matrices that are neither embedding, head nor experts, in either format's names."""
    outside = ("embed", "embd", "wte", "wpe", "lm_head", "experts.")
    return sum(
        prod(shape)
        for name, shape in tensors
        if len(shape) == 2 and name != "output.weight" and not any(part in name for part in outside)
    )


def _hub_config(source: str, place: str) -> Mapping[str, Any]:
    import httpx
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers

    repo, _, revision = place.partition("@")
    cached = try_to_load_from_cache(repo, "config.json", revision=revision or "main")
    if isinstance(cached, str):
        return dict(json.loads(Path(cached).read_text()))
    try:
        url = hf_hub_url(repo, "config.json", revision=revision or None)
        answer = httpx.get(url, headers=build_hf_headers(), timeout=HUB_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        raise InvalidInput(
            f"{source}: the hub is not reachable ({type(error).__name__}) and the model is not in the local "
            "cache; go online, or bring the model's directory here and set base.source: path:DIRECTORY"
        ) from error
    if answer.status_code in (401, 403):
        raise InvalidInput(
            f"{source}: access was refused; accept the model's terms on the hub and set HF_TOKEN"
        )
    if answer.status_code != 200:
        raise InvalidInput(
            f"{source}: the hub has no config.json for {repo} at {revision or 'its default branch'} "
            f"(status {answer.status_code}); check the name and the revision"
        )
    return dict(answer.json())
