"""One table of names for every family: what a configuration says, held against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from stages.backends.merge.layout import layout
from stages.backends.train.lora import target_layers
from stages.errors import InvalidInput
from stages.families import support
from stages.families.blocks import BLOCKS, is_called
from stages.families.config_names import NAMES, positions, text_config
from stages.memory import SCALED
from stages.model_shape import PICO, ModelShape, describe_base
from stages.outline import gguf_positions, model_outline
from tests.stages.families.tiny_models import SETTINGS, config_of
from tests.stages.untrusted.hostile_files import model


@pytest.fixture
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """config.json of a family as its own class writes it."""
    config = config_of(request.param)
    config.save_pretrained(tmp_path)
    return dict(json.loads((tmp_path / "config.json").read_text()))


def test_there_are_thirty_families_and_more() -> None:
    assert len(SETTINGS) >= 45
    assert SETTINGS.keys() == {*BLOCKS, *support.NO_TRAINING}, (
        "each family of the table has a tiny model to try it on"
    )
    assert {"gpt2", "mixtral", "mpt", "bloom", "gptj", "gpt_bigcode", "falcon", "llama"} <= SETTINGS.keys()


@pytest.mark.parametrize(("saved", "family"), [(one, one) for one in SETTINGS], indirect=["saved"])
def test_names_are_those_of_transformers(saved: dict[str, Any], family: str) -> None:
    config, found = config_of(family).get_text_config(), text_config(saved, "base")
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        assert found[name] == getattr(config, name), name
    for name, others in type(config).attribute_map.items():
        assert name not in NAMES or others in (name, *NAMES[name]), name
    if hasattr(config, "max_position_embeddings"):  # transformers gives MPT's length no name of its own
        assert found["max_position_embeddings"] == config.max_position_embeddings
    unsaid = {key: value for key, value in saved.items() if key != "tie_word_embeddings"}
    default = type(config)().tie_word_embeddings
    assert text_config(unsaid, "base")["tie_word_embeddings"] == default
    assert model_outline(saved, {}).tied == config.tie_word_embeddings
    stated = getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))
    if "yarn" not in str(found.get("rope_parameters")):  # which stretches what is stated
        assert positions(found) == stated
    assert model_outline(saved, {}).context_length == positions(found)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # in BigCode
@pytest.mark.parametrize("family", BLOCKS)
def test_the_block_is_that_of_the_model(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each linear layer that NF4 packs, by name and both widths, and none besides."""
    config = config_of(family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path)
    shape = _shape(tmp_path, monkeypatch)
    assert shape.family == family
    assert shape.parameters == pytest.approx(model.num_parameters(), rel=0.1)
    assert support.base_refusal(family, shape.architecture) is None
    layers = target_layers(model, "all-linear")
    assert set(layers) == layout(tmp_path).quantized, "NF4 packs exactly these"
    foretold = shape.linear_shapes()
    for name in layers:
        weight = model.get_submodule(name).weight
        turned = isinstance(model.get_submodule(name), Conv1D)
        widths = tuple(weight.shape) if turned else tuple(weight.shape[::-1])
        (called,) = (known for known in foretold if is_called(known, name))
        assert foretold[called] == widths, name
    assert len(layers) == shape.layers * len(foretold)
    weights = [model.get_submodule(name).weight.numel() for name in layers]
    assert shape.linear_parameters == sum(weights)
    experts = [p for n, p in model.named_parameters() if p.dim() == 3 and ".experts." in n]
    assert shape.packed_parameters == sum(weights) + sum(p.numel() for p in experts)
    assert (type(model.get_input_embeddings()) is not nn.Embedding) == (family in SCALED)


def test_a_family_without_layers_that_nf4_packs_is_not_trained(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(config_of("falcon"))
    assert target_layers(model, "all-linear") == []
    model.save_pretrained(tmp_path)
    assert layout(tmp_path).quantized == frozenset()
    assert "model_type falcon cannot be trained" in str(support.base_refusal("falcon", "FalconForCausalLM"))


def _shape(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelShape:
    """As `check` has it of a base on the hub: from config.json alone."""
    raw = json.loads((folder / "config.json").read_text())
    monkeypatch.setattr("stages.model_shape._hub_config", lambda *_: raw)
    return describe_base("hub:org/name")


def test_an_ending_means_the_layer_that_it_is_the_end_of() -> None:
    assert is_called("attn.c_proj", "c_proj")
    assert is_called("attn.c_proj", "transformer.h.0.attn.c_proj")
    assert not is_called("mlp.c_proj", "transformer.h.0.attn.c_proj")
    assert not is_called("v_proj", "vv_proj")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, r"model_type t5\) has an encoder"),
        ({"model_type": "mamba", "hidden_size": 8}, r"model_type mamba\) has no attention heads"),
        ({"architectures": {"a": 1}, "is_encoder_decoder": True}, r"a model without a name"),
        (
            {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2},
            r"model_type bert\) reads its text",
        ),
        (
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "model_type": "gemma3",
                "text_config": {"model_type": "gemma3_text", "hidden_size": 8},
            },
            "is not a causal language model",
        ),
    ],
)
def test_what_is_no_decoder_is_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        text_config(raw, "base")


@pytest.mark.parametrize("where", ["hub:org/name", "path"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", 1e999), ("hidden_size", "wide"), ("hidden_size", 0), ("hidden_size", [64]),
     ("num_hidden_layers", -2), ("num_attention_heads", 0), ("num_attention_heads", 1e999),
     ("intermediate_size", -1), ("vocab_size", float("nan")), ("head_dim", -4), ("architectures", {"a": 1}),
     ("num_experts", "many")],
)  # fmt: skip
def test_a_configuration_that_no_model_has_is_one_line(
    where: str, key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = {**PICO, key: value}
    model(tmp_path / "base", **raw)
    monkeypatch.setattr("stages.model_shape._hub_config", lambda *_: raw)
    with pytest.raises(InvalidInput) as caught:
        describe_base(f"path:{tmp_path / 'base'}" if where == "path" else where)
    assert "choose another base" in str(caught.value) or "not valid JSON" in str(caught.value)


def test_heads_that_are_no_number_are_not_counted() -> None:
    raw = {"model_type": "mpt", "n_heads": 4, "attn_config": {"kv_n_heads": {"a": 1}}}
    assert text_config(raw, "base")["num_key_value_heads"] == 4


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, 4096),
        ({"rope_type": "default", "rope_theta": 1e4}, 4096),
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "yarn", "factor": 4.0}, 16384),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
        ({"rope_type": "longrope", "factor": 32.0, "original_max_position_embeddings": 4096}, 4096),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}}, 4096),
        ({"rope_type": "linear", "factor": 1e999}, 4096),
        ({"rope_type": "linear", "factor": float("nan")}, 4096),
        ({"rope_type": ["linear"], "factor": 2.0}, 4096),
    ],
)
def test_positions_are_stretched_as_the_rope_scaling_says(rope: dict[str, Any] | None, expected: int) -> None:
    raw = {"model_type": "llama", "num_attention_heads": 2, "hidden_size": 8, "max_position_embeddings": 4096}
    for name in ("rope_scaling", "rope_parameters"):
        config = text_config({**raw, name: rope}, "base")
        assert positions(config) == expected
        assert model_outline({**raw, name: rope}, {}).context_length == expected
    flat = rope if rope and "full_attention" not in rope else {}
    values = {
        "general.architecture": "llama", "llama.context_length": 4096,
        "llama.rope.scaling.type": flat.get("rope_type", flat.get("type")),
        "llama.rope.scaling.factor": flat.get("factor"),
        "llama.rope.scaling.original_context_length": flat.get("original_max_position_embeddings"),
    }  # fmt: skip
    assert gguf_positions(values) == expected
    gemma = text_config({**raw, "model_type": "gemma3_text", "rope_scaling": rope}, "base")
    assert positions(gemma) == 4096, "states the stretched length beside the factor"
    assert positions({"num_attention_heads": 2}) is None


def test_a_text_model_kept_apart_is_read() -> None:
    found = text_config({"model_type": "outer", "text_config": {"model_type": "llama", "hidden_size": 8,
                         "num_attention_heads": 2}}, "base")  # fmt: skip
    assert (found["hidden_size"], found["num_key_value_heads"]) == (8, 2)


def test_what_a_family_cannot_be_put_through_is_said_by_name() -> None:
    known = support.known_to_gptqmodel()
    assert known is not None
    assert {"llama", "gpt2", "qwen3", "qwen3_5"} <= known
    for nothing in ("llama", "gpt2", "mixtral", ""):
        assert support.gptq_refusal(nothing) is None
        support.require_quantizable(nothing, "base")
    with pytest.raises(
        InvalidInput, match=r"base: model_type olmo cannot .* \(GPTQModel does not know this family"
    ):
        support.require_quantizable("olmo", "base")
    assert "experts' biases" in str(support.gptq_refusal("gpt_oss"))
    assert "does not find the head" in str(support.gptq_refusal("gpt_neox"))
    assert "is untested" in str(support.gptq_refusal("deepseek_v3"))
    causal = support.known_to_transformers()
    assert causal is not None
    assert {"llama", "gpt2", "mpt"} <= causal
    assert support.base_refusal("llama", "LlamaForCausalLM") is None
    assert "LlamaForSequence" in str(support.base_refusal("llama", "LlamaForSequenceClassification"))
    assert "model_type unheard" in str(support.base_refusal("unheard", "UnheardForCausalLM"))
    assert (
        support.gguf_refusal("gptj", "GPTJForCausalLM")
        == "llama.cpp's converter does not know GPTJForCausalLM"
    )
    assert support.gguf_refusal("llama", "LlamaForCausalLM") is None
