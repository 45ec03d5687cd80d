"""Training: what comes out, what is refused, what survives a kill, and that gradients stay right."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from trl import pack_dataset

from registry.artifacts import digest
from stages.backends import nf4
from stages.backends.arithmetic import effective
from stages.backends.chat import load_tokenizer
from stages.backends.train import lora, loss, packing, qlora
from stages.backends.train import rows as rows_module
from stages.backends.train import trainer as sft
from stages.backends.train.checkpoints import COMPLETE, INPUTS, discard, keep_only, last_checkpoint
from stages.backends.train.rows import IGNORED, encode_split, keep_rows, training_order
from stages.config.lora import LoraConfig
from stages.config.train import Nf4Config, TrainConfig
from stages.contract import Facts, Parent
from stages.errors import Diverged, InsufficientResources, InvalidInput, StageError
from stages.memory import training_memory
from stages.model_shape import describe_base
from stages.train import train

TOPICS = ("network", "printer", "movie", "planet", "music", "money", "sport", "food")


def chat(draw: random.Random) -> list[dict[str, str]]:
    topic = draw.choice(TOPICS)
    words = " ".join(draw.choice(["what", "is", "a", "good", "way"]) for _ in range(draw.randint(2, 12)))
    return [
        {"role": "user", "content": f"{words} {topic}"},
        {"role": "assistant", "content": json.dumps({"topic": topic})},
    ]


MESSAGES = pa.schema(
    {"messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))}  # as prepare writes it
)


def write_dataset(folder: Path, train_rows: list[list[dict[str, str]]], validation: int = 8) -> Parent:
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    for split, chats in (("train", train_rows), ("validation", [chat(draw) for _ in range(validation)])):
        table = pa.Table.from_pylist([{"messages": row} for row in chats], MESSAGES)
        pq.write_table(table, folder / f"{split}.parquet")
    return Parent(id=digest(train_rows), kind="dataset", path=folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    draw = random.Random(0)
    return write_dataset(tmp_path_factory.mktemp("dataset"), [chat(draw) for _ in range(48)])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def settings(**changes: object) -> TrainConfig:
    quick = {
        "lora": {"rank": 4, "dropout": 0.05},
        "batch_size": 2,
        "gradient_accumulation": 2,
        "gradient_checkpointing": False,
        "max_steps": 6,
        "checkpoint_every": 2,
        "evaluations": 1,
        "learning_rate": 1e-3,
    }
    return TrainConfig.model_validate({**quick, **changes})


@pytest.fixture(scope="module")
def trained(
    pico_base: Parent, dataset: Parent, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Facts, Path]:
    out = tmp_path_factory.mktemp("adapter")
    return train({"base": pico_base, "dataset": dataset}, settings(), out), out


# What comes out


def test_files_and_facts(trained: tuple[Facts, Path], pico_base: Parent, dataset: Parent) -> None:
    facts, out = trained
    names = {path.name for path in out.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tuneline.json", "history.jsonl"} <= names
    assert {"tokenizer.json", "chat_template.jinja"} <= names
    assert "checkpoints" not in names
    assert facts.kind == "adapter"
    assert facts.base == pico_base.base
    assert facts.quant is not None
    assert facts.quant.method == "bnb"
    assert facts.quant.effective["layers"] == 14
    # half a byte, one byte per 64 weights, four per 64 × 256 (and a remainder block per layer)
    assert 4.125 < facts.quant.effective["bits_per_weight"] < 4.15
    assert facts.metrics["steps"] == 6
    assert facts.metrics["trainable_parameters"] == sum(
        tensor.numel() for tensor in load_file(out / "adapter_model.safetensors").values()
    )


def test_history_has_every_step_once_and_the_loss_falls(trained: tuple[Facts, Path]) -> None:
    facts, out = trained
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    steps = [row for row in history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert all(set(row) == {"step", "loss", "learning_rate", "tokens"} for row in steps)
    validations = [(row["step"], row["validation_loss"]) for row in history if "validation_loss" in row]
    assert [step for step, _ in validations] == [3, 6]
    assert validations[1][1] < validations[0][1]
    assert facts.metrics["validation_loss"] == validations[1][1]
    assert steps[-1]["tokens"] == facts.metrics["tokens"] > steps[0]["tokens"]


def test_the_adapter_names_its_real_base_and_no_path(trained: tuple[Facts, Path], pico_base: Parent) -> None:
    facts, out = trained
    assert facts.base is not None
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "pico:0"
    assert config["revision"] == facts.base.revision
    assert config["target_modules"] == sorted(config["target_modules"])
    record = json.loads((out / "tuneline.json").read_text())
    assert record["base"]["id"] == pico_base.id
    assert record["base"]["tokenizer_digest"] == facts.base.tokenizer_digest
    assert record["base"]["chat_template_digest"] == facts.base.chat_template_digest
    assert record["quant"]["requested"] == Nf4Config().model_dump()
    for file in out.glob("*.json"):
        assert str(pico_base.path) not in file.read_text()


def test_every_adapter_tensor_learned(trained: tuple[Facts, Path]) -> None:
    tensors = load_file(trained[1] / "adapter_model.safetensors")
    assert len(tensors) == 2 * 14
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values())
    assert all(t.abs().sum() > 0 for name, t in tensors.items() if "lora_B" in name)


# Killed and run again

CHILD = """
import logging, sys
from pathlib import Path
from stages.contract import Parent
from stages.model_shape import describe_base
from stages.train import TrainConfig, train
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", stream=sys.stdout)
base, dataset, config, out = sys.argv[1:]
parents = {"base": Parent.model_validate_json(base), "dataset": Parent.model_validate_json(dataset)}
train(parents, TrainConfig.model_validate_json(config), Path(out))
"""


def test_a_killed_training_goes_on_from_its_last_complete_checkpoint(
    pico_base: Parent,
    dataset: Parent,
    trained: tuple[Facts, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = settings()
    arguments = [parent.model_dump_json() for parent in (pico_base, dataset)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments, config.model_dump_json(), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if line.startswith("tuneline.stage 5/6"):
                child.kill()
                break
    assert child.wait() == -9
    checkpoints = tmp_path / "checkpoints"
    assert (checkpoints / "checkpoint-4" / COMPLETE).exists()
    half_written = checkpoints / "checkpoint-5"
    half_written.mkdir()
    caplog.set_level(logging.INFO, "tuneline.stage")
    facts = train({"base": pico_base, "dataset": dataset}, config, tmp_path)
    done = [record.progress["done"] for record in caplog.records if hasattr(record, "progress")]
    assert done == [5, 6]
    assert not checkpoints.exists()
    assert facts == trained[0]
    for name in ("adapter_model.safetensors", "history.jsonl"):
        assert (tmp_path / name).read_bytes() == (trained[1] / name).read_bytes(), name


def test_checkpoints_of_other_inputs_are_not_used(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    assert last_checkpoint(root, "one") is None
    complete = root / "checkpoint-10"
    complete.mkdir()
    (complete / COMPLETE).touch()
    (root / "checkpoint-12").mkdir()
    assert last_checkpoint(root, "one") == complete
    assert not (root / "checkpoint-12").exists()
    assert last_checkpoint(root, "two") is None
    assert not complete.exists()


def test_checkpoints_that_a_kill_left_half_deleted_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkpoints"
    last_checkpoint(root, "one")
    newest = root / "checkpoint-10"
    newest.mkdir()
    (newest / "optimizer.pt").touch()
    keep_only(root, newest)
    assert last_checkpoint(root, "one") == newest

    def killed(folder: Path) -> None:
        (newest / "optimizer.pt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            discard(root)
    assert (newest / COMPLETE).exists()
    assert last_checkpoint(root, "one") is None
    assert not newest.exists()
    (root / INPUTS).write_text("")  # as a kill in the middle of writing it used to leave it
    assert last_checkpoint(root, "one") is None


# Gradients


def gradients(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    model.train()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return torch.cat([weight.grad.flatten().float() for _, weight in lora.trainable(model)])


def with_adapter(base: Path, compute: str, frozen: nf4.Frozen) -> torch.nn.Module:
    config = settings(lora={"rank": 4, "dropout": 0.0}, nf4={"compute_dtype": compute})
    model, _ = qlora.load_for_training(base, config, frozen)
    draw = torch.Generator().manual_seed(3)
    for name, weight in lora.trainable(model):
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=draw) * 0.02
    return model


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def evaluate_once(model: torch.nn.Module, ids: torch.Tensor) -> None:
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids, use_cache=False)


def test_gradients_stay_right_after_an_evaluation(pico_base: Parent) -> None:
    """Fails when the guard in `nf4.refuse_repacking` is removed, on a CPU with the kernel in question."""
    ids = torch.randint(0, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
    true = gradients(with_adapter(pico_base.path, "float32", "dequantized"), ids)
    packed = with_adapter(pico_base.path, "bfloat16", "packed")
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine(gradients(packed, ids), true) > 0.99
        evaluate_once(packed, ids)
        nf4.require_not_repacked(packed)
        assert cosine(gradients(packed, ids), true) > 0.99
        assert cosine(gradients(with_adapter(pico_base.path, "bfloat16", "dequantized"), ids), true) > 0.99


@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit. an autograd kernel was not registered")
def test_the_check_notices_weights_that_were_repacked(pico_base: Parent) -> None:
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, so bitsandbytes never repacks here")
    ids = torch.randint(0, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
    true = gradients(with_adapter(pico_base.path, "float32", "dequantized"), ids)
    unguarded = with_adapter(pico_base.path, "bfloat16", "packed")
    for _, module in nf4.quantized_modules(unguarded):
        module.support_avx512bf16_for_cpu = True
    evaluate_once(unguarded, ids)
    assert len(nf4.repacked_modules(unguarded)) == 14
    with pytest.raises(StageError, match=r"14 NF4 layers .* were repacked"):
        nf4.require_not_repacked(unguarded)
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine(gradients(unguarded, ids), true) < 0.9


def test_quantized_as_asked_or_refused(pico_base: Parent) -> None:
    model = nf4.load_nf4(pico_base.path, Nf4Config(double_quant=False))
    nf4.require_nf4(model, Nf4Config(double_quant=False))
    with pytest.raises(StageError, match="double quantization True"):
        nf4.require_nf4(model, Nf4Config(double_quant=True))
    assert nf4.effective_quantization(model)["bits_per_weight"] == 4.5


def test_dequantized_weights_are_the_nf4_values(pico_base: Parent) -> None:
    stored = load_file(pico_base.path / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    model = nf4.load_nf4(pico_base.path, Nf4Config(), "dequantized")
    held = model.model.layers[1].mlp.up_proj.weight
    assert held.dtype == effective("auto")
    assert not held.requires_grad
    assert torch.equal(held.bfloat16(), nf4.nf4_round_trip(stored, Nf4Config()))
    assert torch.equal(held, held.bfloat16().to(held.dtype)), "the values are bfloat16's in either arithmetic"
    assert not torch.equal(held, stored)


def test_ends_in_16_bits_compute_what_they_do_in_32(pico_base: Parent) -> None:
    """Embedding and head, which are tied here, have bfloat16 values."""
    ids = torch.randint(0, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = with_adapter(pico_base.path, "bfloat16", "dequantized")
        base = model.get_base_model()
        embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
        assert head.weight is embedding.weight
        assert embedding.weight.dtype == torch.bfloat16
        assert embedding(ids).dtype == torch.float32, "residuals have 32 bits"
        embedding.weight.data = embedding.weight.data.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, ids))
    assert torch.equal(*found)


def test_slim_loss_equals_trl_loss(pico_base: Parent, dataset: Parent, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pico_base.path)
    rows = encode_split(dataset.path / "train.parquet", tokenizer, 128, tmp_path)
    config = settings(nf4={"compute_dtype": "float32"})
    model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
    trainer = sft.Trainer(model, tokenizer, rows, keep_rows([], tmp_path), config, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    model.eval()
    with torch.no_grad():
        ours = trainer.compute_loss(model, dict(batch)).item()
        trls = super(sft.Trainer, trainer).compute_loss(model, dict(batch)).item()
    assert ours == pytest.approx(trls, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_in_parts_trains_the_same(
    dtype: str, pico_base: Parent, dataset: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(pico_base.path)
    rows = encode_split(dataset.path / "train.parquet", tokenizer, 128, tmp_path)
    config = settings(nf4={"compute_dtype": dtype}, lora={"rank": 4, "dropout": 0})
    losses = []
    for at_once in (sft.LOGITS_AT_ONCE, 3 * 49152):
        for module in (sft, loss):
            monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)
        model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
        trainer = sft.Trainer(
            model, tokenizer, rows, keep_rows([], tmp_path), config, tmp_path / str(at_once)
        )
        sft.fit(trainer, None)
        losses.append([row["loss"] for row in trainer.history()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if dtype == "float32" else 5e-3)


# Packing


def test_packed_training_puts_more_rows_into_a_step(
    pico_base: Parent, dataset: Parent, tmp_path: Path
) -> None:
    config = settings(packing=True, max_length=96, max_steps=2, evaluations=0)
    facts = train({"base": pico_base, "dataset": dataset}, config, tmp_path)
    assert facts.metrics["steps"] == 2
    assert facts.metrics["tokens"] > 2 * 4 * 48


@pytest.mark.parametrize("size", [40, 97])
def test_rows_are_packed_as_by_trl(size: int, tmp_path: Path) -> None:
    draw = random.Random(size)
    texts = [[place] * draw.randint(1, 40) for place in range(2500)]
    packed = packing.Packed(keep_rows(((text, [1] * len(text)) for text in texts), tmp_path), size)
    theirs = pack_dataset(Dataset.from_dict({"input_ids": texts}), size, "bfd")
    assert packed.lengths.tolist() == packed.tokens.tolist() == [len(ids) for ids in theirs["input_ids"]]
    for place, expected in enumerate(theirs):
        ours = packed[place]
        assert ours["input_ids"].tolist() == ours["labels"].tolist() == expected["input_ids"]
        assert ours["seq_lengths"] == expected["seq_lengths"]


def test_attention_that_mixes_packed_rows_is_refused(pico_base: Parent) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def maskless(module, query, key, value, attention_mask, **kwargs):  # type: ignore[no-untyped-def]
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)

    AttentionInterface.register("maskless", maskless)
    model = nf4.load_nf4(pico_base.path, Nf4Config(), "dequantized")
    packing.require_rows_apart(model)
    model.set_attn_implementation("maskless")
    with pytest.raises(InvalidInput, match=r"packed rows read each other .* set train\.packing: false"):
        packing.require_rows_apart(model)


# Refusals


def test_a_huge_learning_rate_diverges_with_its_cause(
    pico_base: Parent, dataset: Parent, tmp_path: Path
) -> None:
    config = settings(learning_rate=1e25, warmup_ratio=0.0, schedule="constant", evaluations=0)
    with pytest.raises(Diverged, match=r"at step [2-6] of 6: train\.learning_rate is 1e\+25, usual is 2e-4"):
        train({"base": pico_base, "dataset": dataset}, config, tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_a_broken_base_diverges_with_its_cause(pico_base: Parent, dataset: Parent, tmp_path: Path) -> None:
    broken = tmp_path / "base"
    shutil.copytree(pico_base.path, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][7] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    parents = {"base": pico_base.model_copy(update={"path": broken}), "dataset": dataset}
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Diverged, match=r"at step 1 of 6: the base's own weights hold NaN .*norm\.weight"):
        train(parents, settings(), out)


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("ok", {"max_length": 8}, r"row 0 has \d+ tokens, more than train.max_length 8"),
        ("no answer", {}, "row 0 has no token of the assistant"),
        ("none", {}, "training split is empty"),
    ],
)
def test_rows_that_cannot_be_trained_on(
    pico_base: Parent, tmp_path: Path, row: str, changes: dict[str, int], message: str
) -> None:
    rows = {"ok": [chat(random.Random(0))], "no answer": [[{"role": "user", "content": "x"}]], "none": []}
    with pytest.raises(InvalidInput, match=message):
        train(
            {"base": pico_base, "dataset": write_dataset(tmp_path / "data", rows[row])},
            settings(**changes),
            tmp_path,
        )


@pytest.mark.parametrize(
    ("lora_settings", "message"),
    [
        ({"target_modules": ["q_prj"]}, r"'q_prj' matches no layer of LlamaForCausalLM; nearest: q_proj"),
        ({"target_modules": ["q_proj", "lm_head"]}, "'lm_head' is lm_head, which is not a linear layer"),
        ({"modules_to_save": ["norms"]}, r"'norms' matches no module .* nearest: norm"),
        ({"modules_to_save": ["embed_tokens"]}, r"'embed_tokens' shares its weights .*tied"),
    ],
)
def test_names_that_match_nothing(
    pico_base: Parent, lora_settings: dict[str, list[str]], message: str
) -> None:
    config = settings(lora=lora_settings)
    with pytest.raises(InvalidInput, match=message):
        qlora.load_for_training(pico_base.path, config, "packed")


def test_only_the_named_layers_get_an_adapter(pico_base: Parent) -> None:
    config = settings(lora={"rank": 4, "target_modules": ["self_attn.q_proj", "layers.1.mlp.up_proj"]})
    model, _ = qlora.load_for_training(pico_base.path, config, "dequantized")
    names = {name.split(".lora_")[0] for name, _ in lora.trainable(model)}
    prefix = "base_model.model.model.layers"
    assert names == {
        f"{prefix}.0.self_attn.q_proj",
        f"{prefix}.1.self_attn.q_proj",
        f"{prefix}.1.mlp.up_proj",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_type": "fp4"}, "always uses nf4"),
        ({"compute_dtype": "float16"}, "overflows to NaN"),
    ],
)
def test_fp4_and_fp16_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"nf4": changes})


def test_memory_decides_how_weights_are_held(pico_base: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        available = 0

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    config = settings(lora=LoraConfig(rank=1).model_dump())
    shape = describe_base(f"path:{pico_base.path}")
    full = training_memory(shape, config, 32, "dequantized", gpu=False)
    packed = training_memory(shape, config, 32, "packed", gpu=False)
    assert full > packed
    Free.available = full
    assert qlora.choose_frozen(pico_base.path, config, 32) == "dequantized"
    Free.available = packed
    assert qlora.choose_frozen(pico_base.path, config, 32) == "packed"
    Free.available = packed - 1
    with pytest.raises(InsufficientResources, match=r"lower batch_size .* gradient_checkpointing"):
        qlora.choose_frozen(pico_base.path, config, 32)


# The order of rows


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80),
    passes=st.integers(1, 3),
    batch=st.integers(1, 7),
)
def test_every_row_comes_once_before_any_comes_again(lengths: list[int], passes: int, batch: int) -> None:
    order = training_order(lengths, passes * len(lengths), batch, seed=5).tolist()
    assert sorted(order) == sorted(list(range(len(lengths))) * passes)
    assert order == training_order(lengths, passes * len(lengths), batch, seed=5).tolist()


def test_little_is_padded_and_the_longest_comes_first() -> None:
    draw = random.Random(2)
    lengths = [draw.randint(8, 200) for _ in range(2000)]
    order = training_order(lengths, 2000, 16, seed=0).tolist()
    batches = [order[i : i + 16] for i in range(0, 2000, 16)]
    padded = sum(16 * max(lengths[row] for row in rows) for rows in batches)
    assert padded / sum(lengths) < 1.05
    assert max(lengths[row] for row in batches[0]) == max(lengths)
    assert training_order(lengths, 2000, 16, seed=1).tolist() != order


def test_labels_cover_the_answer_only(pico_base: Parent, dataset: Parent, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pico_base.path)
    rows = encode_split(dataset.path / "train.parquet", tokenizer, 128, tmp_path)
    messages = pq.read_table(dataset.path / "train.parquet")["messages"].to_pylist()
    assert len(rows) == len(messages)
    for place, chat_messages in enumerate(messages):
        ids, labels = rows[place].values()
        assert tokenizer.decode(ids) == tokenizer.apply_chat_template(chat_messages, tokenize=False)
        learned = tokenizer.decode([label for label in labels if label != IGNORED])
        assert learned == chat_messages[1]["content"] + tokenizer.eos_token


@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9), max_size=9
    )
)
def test_rows_are_kept_on_disk_as_they_were(rows: list[list[tuple[int, bool]]], scratch: Path) -> None:
    kept = keep_rows(([[t for t, _ in row], [on for _, on in row]] for row in rows), scratch)
    assert kept.lengths.tolist() == [len(row) for row in rows]
    for place, row in reversed(list(enumerate(rows))):
        assert kept[place]["input_ids"].tolist() == [token for token, _ in row]
        assert kept[place]["labels"].tolist() == [token if on else IGNORED for token, on in row]
    assert not list(scratch.iterdir())


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> BinaryIO:
        return os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")

    monkeypatch.setattr(rows_module, "TemporaryFile", full)
    with pytest.raises(InsufficientResources, match=r"the disk of .* is full: .* make room or set TUNELINE_"):
        keep_rows([([1, 2], [0, 1])] * 3, tmp_path)
