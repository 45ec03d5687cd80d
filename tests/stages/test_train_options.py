"""Options of training: what they change while an adapter trains, and that its merge is base and adapter."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from stages.backends.chat import load_tokenizer
from stages.backends.preview import layers_amiss
from stages.backends.train import lora, qlora
from stages.backends.train.rows import encode_split
from stages.backends.train.trainer import Trainer, fit
from stages.config.lora import LoraConfig
from stages.contract import Parent
from stages.memory import adapter_parameters
from stages.merge import MergeConfig, merge
from stages.model_shape import describe_base
from stages.train import train
from tests.conftest import as_parent
from tests.stages.test_train import chat, settings, write_dataset

OPTIONS: dict[str, dict[str, Any]] = {
    "LoRA+ and NEFTune": {"loraplus_lr_ratio": 16, "neftune_noise_alpha": 5},
    "DoRA": {"lora": {"rank": 4, "dora": True}, "learning_rate": 5e-3},
    "rsLoRA": {"lora": {"rank": 4, "rslora": True}},
    "some modules": {"lora": {"rank": 4, "layers": [1], "pattern": r".*(q_proj|mlp\..*)"}},
}
"""What leaves an adapter that a merge takes, and changes it."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    draw = random.Random(0)
    return write_dataset(tmp_path_factory.mktemp("dataset"), [chat(draw) for _ in range(24)])


def trainer_with(base: Parent, dataset: Parent, out: Path, **options: Any) -> Trainer:
    tokenizer, config = load_tokenizer(base.path), settings(nf4={"compute_dtype": "float32"}, **options)
    files = (dataset.path / "train.parquet", dataset.path / "validation.parquet")
    train_rows, validation = (encode_split(file, tokenizer, 128, out) for file in files)
    model, _ = qlora.load_for_training(base.path, config, "dequantized")
    return Trainer(model, tokenizer, train_rows, validation, config, out)


def test_b_learns_faster_than_a_with_lora_plus(pico_base: Parent, dataset: Parent, tmp_path: Path) -> None:
    trainer = trainer_with(pico_base, dataset, tmp_path, loraplus_lr_ratio=16, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    named = {id(weight): name for name, weight in lora.trainable(trainer.model)}
    rates = {named[id(weight)]: group["lr"] for group in groups for weight in group["params"]}
    assert len(rates) == len(named)
    for name, rate in rates.items():
        assert rate == pytest.approx(16e-3 if "lora_B" in name else 1e-3), name
    assert {group["weight_decay"] for group in groups if group["params"]} == {0.1}
    assert trainer.create_optimizer() is trainer.optimizer
    plain = trainer_with(pico_base, dataset, tmp_path, weight_decay=0.1).create_optimizer().param_groups
    assert {group["lr"] for group in plain} == {1e-3}


def test_embeddings_have_noise_while_it_trains_only(
    pico_base: Parent, dataset: Parent, tmp_path: Path
) -> None:
    trainer = trainer_with(pico_base, dataset, tmp_path, neftune_noise_alpha=5, max_steps=2)
    table = trainer.model.get_base_model().get_input_embeddings()
    heard: list[tuple[bool, float, float]] = []

    def listen(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        noise = (output - module.weight[inputs[0]]).abs().max().item()
        heard.append((module.training, noise, 5 / math.sqrt(output[0].numel())))

    class Listening(TrainerCallback):  # once the noise is there
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            table.register_forward_hook(listen)

    trainer.add_callback(Listening())
    fit(trainer, None)
    assert {training for training, _, _ in heard} == {True, False}
    for training, noise, most in heard:
        assert (0.5 * most < noise <= most * 1.01) if training else noise == 0
    assert not hasattr(table, "neftune_noise_alpha")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_merge_is_base_and_adapter(
    options: dict[str, Any], pico_base: Parent, dataset: Parent, tmp_path: Path
) -> None:
    parents = {"base": pico_base, "dataset": dataset}
    plain, other, merged = (tmp_path / name for name in ("plain", "other", "merged"))
    for out in (plain, other, merged):
        out.mkdir()
    train(parents, settings(), plain)
    adapter = as_parent(train(parents, settings(**options), other), other)
    merge({"base": pico_base, "adapter": adapter}, MergeConfig(base="16bit"), merged)
    ids = torch.tensor([load_tokenizer(pico_base.path)("what is a good way to the printer")["input_ids"]])

    def logits(path: Path, on: Path | None = None) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        model = model if on is None else PeftModel.from_pretrained(model, str(on))
        with torch.no_grad():
            return model(input_ids=ids).logits

    expected = logits(pico_base.path, other)
    assert (logits(merged) - expected).abs().max() < 2e-2
    assert (logits(pico_base.path, plain) - expected).abs().max() > 5e-2, "the options must matter"


@pytest.mark.parametrize("frozen", ["packed", "dequantized"])
def test_dora_moves_the_lengths_of_weights(
    frozen: str, pico_base: Parent, dataset: Parent, tmp_path: Path
) -> None:
    config = settings(lora={"rank": 4, "dora": True, "dropout": 0}, frozen_weights=frozen, max_steps=2)
    facts = train({"base": pico_base, "dataset": dataset}, config, tmp_path)
    kept = load_file(tmp_path / "adapter_model.safetensors")
    lengths = {name: tensor for name, tensor in kept.items() if "lora_magnitude_vector" in name}
    assert len(lengths) == 14
    shape = describe_base(f"path:{pico_base.path}")
    assert sum(tensor.numel() for tensor in kept.values()) == adapter_parameters(shape, config)
    assert facts.metrics["outline"]["dora"] is True
    model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
    fresh = {name.replace(".default.weight", ""): w for name, w in lora.trainable(model)}
    moved = [not torch.equal(tensor, fresh[name]) for name, tensor in lengths.items()]
    assert all(moved), "a rounded length would stay where it was"


def test_adapters_from_before_keep_their_keys() -> None:
    assert "dora" not in settings().model_dump(mode="json")["lora"]
    assert settings(lora={"dora": True}).model_dump(mode="json")["lora"]["dora"] is True


@pytest.mark.parametrize(
    ("lora_settings", "names"),
    [
        ({"layers": [1], "target_modules": ["q_proj"]}, ["1.self_attn.q_proj"]),
        ({"layers": ["0-1"], "pattern": r".*\.v_proj"}, ["0.self_attn.v_proj", "1.self_attn.v_proj"]),
        ({"pattern": r"model\.layers\.0\.mlp\.(up|down)_proj"}, ["0.mlp.down_proj", "0.mlp.up_proj"]),
    ],
)
def test_an_adapter_is_on_the_modules_that_were_meant(
    lora_settings: dict[str, Any], names: list[str], pico_base: Parent
) -> None:
    config = settings(lora={"rank": 4, **lora_settings})
    model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
    trained = {name.partition(".lora_")[0].partition("layers.")[2] for name, _ in lora.trainable(model)}
    assert sorted(trained) == names
    count = sum(weight.numel() for _, weight in lora.trainable(model))
    assert count == adapter_parameters(describe_base(f"path:{pico_base.path}"), config)


def test_modules_that_are_not_there_are_named(pico_base: Parent) -> None:
    for given, said in (
        ({"layers": [0, "2-3"]}, r"layers: 3 is beyond the last block of LlamaForCausalLM, which has 2"),
        ({"pattern": "q_proj"}, r"pattern: leaves no module .* whole name of one is model\.layers\.0\."),
        ({"layers": [0], "target_modules": ["layers.1.mlp.up_proj"]}, r"layers: leaves no module"),
    ):
        told = list(layers_amiss(f"path:{pico_base.path}", settings(lora=given).lora))
        assert len(told) == 1
        assert re.search(f"train.lora.{said}", told[0])
    shape = describe_base(f"path:{pico_base.path}")
    unknown, every = (settings(lora=some) for some in ({"pattern": r"h\.\d+\..*"}, {}))
    assert adapter_parameters(shape, unknown) == adapter_parameters(shape, every), "an upper end"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": ["3-1"]}, "'3-1' is not a block or a range"),
        ({"layers": [-1]}, "-1 is not a block or a range"),
        ({"layers": []}, "leaves no block; name some"),
        ({"pattern": "(q"}, "pattern: not a regular expression"),
        ({"init_lora_weights": "pissa"}, "PiSSA and LoftQ take a product of factors out of the base's"),
        ({"loftq_config": {}}, "another NF4 base than the one that the registry has"),
        ({"trainable_token_indices": [1]}, "single rows of the embedding are not trained"),
        ({"layers_to_transform": [1]}, r"said by train\.lora\.layers"),
    ],
)
def test_what_an_adapter_cannot_be_is_said_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LoraConfig.model_validate(given)
