"""One table of names for every family: what a configuration says, held against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from stages.config_names import NAMES, text_config
from stages.errors import InvalidInput
from stages.families import known_to_gptqmodel, require_quantizable
from stages.model_shape import PICO, describe_base
from stages.outline import model_outline
from tests.stages.families import SETTINGS, config_of
from tests.stages.foreign_files import model


@pytest.fixture
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """config.json of a family as its own class writes it."""
    config = config_of(request.param)
    config.save_pretrained(tmp_path)
    return dict(json.loads((tmp_path / "config.json").read_text()))


def test_there_are_thirty_families_and_more() -> None:
    assert len(SETTINGS) >= 35
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


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # in BigCode
@pytest.mark.parametrize("family", SETTINGS)
def test_the_shape_is_that_of_the_model(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(family)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    monkeypatch.setattr("stages.backends.model_files.read_headers", lambda _: {})
    raw = json.loads((tmp_path / "config.json").read_text())
    monkeypatch.setattr("stages.model_shape._hub_config", lambda *_: raw)
    shape = describe_base("hub:org/name")
    assert shape.family == family
    assert shape.parameters == pytest.approx(model.num_parameters(), rel=0.2)
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    assert shape.linear_parameters == pytest.approx(sum(m.weight.numel() for m in linear), rel=0.3)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, r"model_type t5\) has an encoder"),
        ({"model_type": "mamba", "hidden_size": 8}, r"model_type mamba\) has no attention heads"),
        ({"architectures": {"a": 1}, "is_encoder_decoder": True}, r"a model without a name"),
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


def test_a_text_model_kept_apart_is_read() -> None:
    found = text_config({"model_type": "outer", "text_config": {"model_type": "llama", "hidden_size": 8,
                         "num_attention_heads": 2}}, "base")  # fmt: skip
    assert (found["hidden_size"], found["num_key_value_heads"]) == (8, 2)


def test_what_gptq_cannot_do_is_refused_by_name() -> None:
    known = known_to_gptqmodel()
    assert known is not None
    assert {"llama", "gpt2", "qwen3"} <= known
    require_quantizable("llama", "base")
    require_quantizable("", "base")
    with pytest.raises(InvalidInput, match=r"model_type bert cannot be quantized with GPTQ.*method: gguf"):
        require_quantizable("bert", "base")
