"""What `tuneline check` predicts of memory, beside what stages take.

    python -m tests.bench.planner [--quick] [--only WORDS]

Random weights of several shapes; each stage is a child of a warm worker, as in a run. Rows are as long as the
recipe allows and their answers are nearly all of them, so that the prediction's upper end is what happens.
A row per stage: predicted and measured MB, and the error, which is negative where the prediction was too low.
Never asserts.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.evaluation_plan import EvaluationPlan
from flows.planning.estimate import estimate
from flows.planning.machine import Machine, machine
from flows.recipe import Recipe
from flows.run.child import StageExecution, WarmWorker, run_in_child
from flows.settings import Settings
from registry.artifacts import digest
from stages.backends.gguf.packaged import read_tokenizer, save_tokenizer
from stages.backends.pico import TOKENIZER_SOURCE
from stages.contract import Facts, Parent
from stages.formats.packaged import packaged_gguf
from stages.model_shape import describe_base
from tests.bench.results import Report

MODELS = {
    # name: hidden, intermediate, layers, heads, heads of keys
    "pico": (256, 512, 2, 4, 2),
    "pico untied": (256, 512, 2, 4, 2),
    "49M": (512, 1408, 8, 8, 4),
    "135M": (576, 1536, 30, 9, 3),
    "286M": (1024, 2816, 20, 16, 8),
}
ROWS = 96
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")


@dataclass(frozen=True)
class Case:
    """One recipe: a model, rows of so many tokens, changes, and which stages of it are run."""

    model: str
    length: int
    train: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    gptq: Mapping[str, Any] = field(default_factory=dict)
    stages: str = "train"
    quick: bool = False

    @property
    def label(self) -> str:
        """Model, length, arithmetic, and what is unusual."""
        unusual = [f"{key}={value}" for key, value in {**self.train, **self.evaluate, **self.gptq}.items()]
        return " ".join([self.model, str(self.length), self.dtype, *unusual])


FLAT = {"gradient_checkpointing": False}
WHOLE = {"lora": {"modules_to_save": ["embed_tokens", "lm_head"]}}
ALL = "train evaluate merge gguf gptq"
EMBEDDING = {
    "tasks": [
        {"kind": "heldout", "name": "near", "max_items": 16, "max_new_tokens": 8, "metrics": ["embedding"]}
    ]
}
CASES = (
    Case("pico", 64, {"batch_size": 8, **FLAT}, stages=f"resolve prepare {ALL}", quick=True),
    Case("pico", 64, {"batch_size": 8, **FLAT}, "float32", stages="train evaluate gptq"),
    Case("pico", 256, {"batch_size": 8}, "float32", quick=True),
    Case("pico", 1024, {"batch_size": 4, **FLAT}, stages="train evaluate"),
    Case("pico", 512, {"batch_size": 2, "packing": True}, stages="train"),
    Case(
        "pico untied",
        256,
        {"batch_size": 2, **FLAT, "lora": {"modules_to_save": ["embed_tokens", "lm_head"]}},
    ),
    Case("pico untied", 256, {"batch_size": 2, **FLAT, "lora": {"modules_to_save": ["lm_head"]}}, "float32"),
    Case("49M", 128, {"batch_size": 8, **FLAT}, stages=ALL, quick=True),
    Case("49M", 128, {"batch_size": 8, **FLAT}, "float32", stages=ALL),
    Case("49M", 512, {"batch_size": 4, **FLAT, "lora": {"dropout": 0.0}}, "float32"),
    Case("49M", 512, {"batch_size": 4, **FLAT, "frozen_weights": "packed"}),
    Case("49M", 1024, {"batch_size": 2}, "float32"),
    Case("49M", 1024, {"batch_size": 2}),
    Case("135M", 128, {"batch_size": 8, **FLAT}, stages=ALL),
    Case("135M", 128, {"batch_size": 8, **FLAT, "lora": {"dropout": 0.0}}, "float32", stages=ALL),
    Case("135M", 512, {"batch_size": 2}),
    Case("135M", 512, {"batch_size": 2, "lora": {"rank": 128}}, "float32"),
    Case("135M", 64, {"batch_size": 2, "frozen_weights": "packed"}, "float32"),
    Case("49M", 128, {"batch_size": 8, **FLAT, "lora": {"dora": True}}),
    Case("135M", 128, {"batch_size": 8, **FLAT, "lora": {"dora": True}}),
    Case("135M", 512, {"batch_size": 2, "lora": {"dora": True}}, "float32"),
    Case("135M", 128, {"batch_size": 8, **FLAT, "lora": {"layers": ["20-29"]}}),
    Case("286M", 128, {"batch_size": 4, **FLAT}, stages=ALL),
    Case("286M", 128, {"batch_size": 4, **FLAT}, evaluate=EMBEDDING, stages="evaluate"),
    Case("286M", 256, {"batch_size": 2}, "float32", stages="train merge"),
    Case("286M", 256, {"batch_size": 2, "frozen_weights": "packed"}),
)


def make_base(name: str, folder: Path) -> Parent:
    """A Llama of random weights with SmolLM2's tokenizer."""
    hidden, intermediate, layers, heads, kv_heads = MODELS[name]
    tokenizer = read_tokenizer(packaged_gguf(TOKENIZER_SOURCE))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=not name.endswith("untied"),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return Parent(id=digest(name), kind="base", path=folder)


def write_rows(file: Path, length: int) -> None:
    """Distinct rows of about `length` tokens, at most as many: a word is a token. A system message of one
    letter takes the place of the template's own, which would be a quarter of a short row."""
    draw = random.Random(length)
    tokenizer = read_tokenizer(packaged_gguf(TOKENIZER_SOURCE))
    with file.open("w") as out:
        for number in range(ROWS):
            asked = [{"role": "system", "content": "s"}, {"role": "user", "content": f"{number:04}"}]
            empty = [*asked, {"role": "assistant", "content": ""}]
            taken = len(tokenizer.apply_chat_template(empty, tokenize=True, return_dict=False))
            answer = " ".join(draw.choices(WORDS, k=length - taken - 1))
            out.write(json.dumps({"messages": [*asked, {"role": "assistant", "content": answer}]}) + "\n")


def recipe_of(case: Case, base: Path, data: Path) -> Recipe:
    """The case as `tuneline check` would read it."""
    train = {"max_steps": 3, "gradient_accumulation": 1, "evaluations": 1, **case.train}
    task = {"kind": "heldout", "name": "held out", "max_items": 16, "max_new_tokens": 8}
    return Recipe.model_validate(
        {
            "name": "bench",
            "base": {"source": f"path:{base}"},
            "prepare": {
                "source": f"path:{data}",
                "max_length": case.length,
                "near_duplicates": None,
                "split": {"validation": 0.25, "test": 0.25},
            },
            "train": {"max_length": case.length, "nf4": {"compute_dtype": case.dtype}, **train},
            "evaluate": {"compute_dtype": case.dtype, "tasks": [task], **case.evaluate},
            "ladder": {"chats": 8, "tokens": 32},
            "quantize": [
                {
                    **{"method": "gptq", "group_size": 64, "calibration_rows": 32},
                    **{"compute_dtype": case.dtype, **case.gptq},
                },
                {"method": "gguf", "type": "Q8_0"},
            ],
        }
    )


class Bench:
    """Runs stages, each once for the same inputs, and keeps what they made for those that follow."""

    def __init__(self, folder: Path, worker: WarmWorker, here: Machine) -> None:
        self.folder, self.worker, self.machine = folder, worker, here
        self._made: dict[str, tuple[Parent, StageExecution]] = {}
        self._bases: dict[str, Parent] = {}

    def base(self, name: str) -> Parent:
        """The base of that name."""
        if name not in self._bases:
            self._bases[name] = make_base(name, self.folder / name)
        return self._bases[name]

    def stage(self, stage: str, config: Any, parents: Mapping[str, Parent]) -> tuple[Parent, StageExecution]:
        """What it makes, and what that took."""
        ids = {role: parent.id for role, parent in parents.items()}
        key = digest([stage, config.model_dump(mode="json"), ids])
        if key not in self._made:
            out = self.folder / key
            out.mkdir()
            log = self.folder / f"{key}.log"
            execution = run_in_child(stage, parents, config, out, log, lambda _: None, self.worker)
            facts = Facts.model_validate(execution.facts)
            parent = Parent(
                id=key, kind=facts.kind, path=out, base=facts.base, quant=facts.quant, metrics=facts.metrics
            )
            self._made[key] = parent, execution
        return self._made[key]

    def measure(self, case: Case) -> Iterator[tuple[str, int, StageExecution]]:
        """Stage, bytes predicted and how it went, in turn."""
        data = self.folder / f"{case.length}.jsonl"
        if not data.exists():
            write_rows(data, case.length)
        recipe = recipe_of(case, self.base(case.model).path, data)
        rows = estimate(recipe, describe_base(recipe.base.source), self.machine)
        predicted = {row.stage: row.memory_bytes for row in rows}
        base, resolved = self.stage("resolve", recipe.base, {})
        dataset, prepared = self.stage("prepare", recipe.prepare, {"base": base})
        sources = {"base": base, "dataset": dataset}
        adapter, trained = self.stage("train", recipe.train, sources)
        found = {"resolve base": resolved, "prepare data": prepared, "train adapter": trained}
        if case.stages != "train":
            merged, found["merge"] = self.stage("merge", recipe.merge, {"base": base, "adapter": adapter})
            if "evaluate" in case.stages:
                found["evaluate"] = self._evaluated(recipe, merged, adapter, sources)
            for config in recipe.quantize:
                if config.method in case.stages:
                    calibration = {"dataset": dataset} if config.method == "gptq" else {}
                    _, execution = self.stage("quantize", config, {"model": merged, **calibration})
                    found[f"quantize {config.label}"] = execution
        for stage, execution in found.items():
            if any(name in stage for name in case.stages.split()):
                yield stage, predicted[stage], execution

    def _evaluated(
        self, recipe: Recipe, merged: Parent, adapter: Parent, sources: Mapping[str, Parent]
    ) -> StageExecution:
        """The evaluation that took most, of the base, the adapter and the merged model."""
        plan = EvaluationPlan(recipe)
        base = sources["base"]
        stored = plan._with(plan.stored, plan._as_trained, plan._sum)
        runs = [
            self.stage("evaluate", plan.untuned.config, {"model": base, "dataset": sources["dataset"]}),
            self.stage("evaluate", plan.tuned.config, {"model": base, "adapter": adapter, **sources}),
            self.stage("evaluate", stored, {"model": merged, "reference_adapter": adapter, **sources}),
        ]
        return max((execution for _, execution in runs), key=lambda execution: execution.peak_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of them, in about two minutes")
    parser.add_argument("--only", default="", help="cases with this in their line")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.label and (case.quick or not options.quick)]
    errors: list[float] = []
    title = "Memory, predicted and measured; a limit of 10 %"
    with (
        Report("planner", "torch", "transformers", "peft") as report,
        tempfile.TemporaryDirectory() as name,
        WarmWorker(Path(name) / "worker.log") as worker,
    ):
        bench = Bench(Path(name), worker, machine(Path(name), Settings().cache_folder))
        for case in cases:
            for stage, predicted, execution in bench.measure(case):
                errors.append(predicted / execution.peak_bytes - 1)
                words = {"stage": stage, "model, tokens of a row, arithmetic": case.label}
                megabytes = {"predicted (MB)": predicted / 1e6, "measured (MB)": execution.peak_bytes / 1e6}
                off = {"error (%)": 100 * errors[-1], "stage (s)": execution.seconds}
                report.row(title, {**words, **megabytes, **off}, behind=abs(errors[-1]) > 0.1)
        within = sum(abs(error) <= 0.1 for error in errors)
        report.note(title, f"{within} of {len(errors)} within 10 %, the lowest {min(errors):+.0%}.")


if __name__ == "__main__":
    main()
