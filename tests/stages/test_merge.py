"""merge: equal to base + adapter and to PEFT's merge, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.backends import safetensors as files
from tests.stages.backends.merge.lora_models import (
    LINEAR,
    distance,
    load,
    logits,
    save_adapter,
    save_gpt2,
    save_llama,
    save_synthetic,
    with_adapter,
)
from tests.stages.backends.merge.merging import PEFT_NOTICES, TOLERANCE, config_of, run

pytestmark = PEFT_NOTICES


EVERY_KIND_OF_ADAPTER: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    # name: (model, adapter, whether the merged model shares its embeddings)
    "untied": ({}, {}, False),
    "tied": ({"tied": True}, {}, True),
    "rslora, ranks and alphas": (
        {},
        {
            "use_rslora": True,
            "rank_pattern": {"q_proj": 2, r"0\..*down_proj": 8},
            "alpha_pattern": {"v_proj": 32},
        },
        False,
    ),
    "modules_to_save head, tied": ({"tied": True}, {"modules_to_save": ["lm_head"]}, False),
    "modules_to_save embedding, tied": ({"tied": True}, {"modules_to_save": ["embed_tokens"]}, False),
    "modules_to_save both, untied": ({}, {"modules_to_save": ["lm_head", "embed_tokens", "norm"]}, False),
    "modules_to_save, kept tied": (
        {"tied": True},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        True,
    ),
    "lora on embedding, untied": ({}, {"target_modules": [*LINEAR, "embed_tokens"]}, False),
    "lora on embedding, tied": ({"tied": True}, {"target_modules": [*LINEAR, "embed_tokens"]}, False),
    "lora on head, tied": ({"tied": True}, {"target_modules": [*LINEAR, "lm_head"]}, False),
    "lora on both, tied": ({"tied": True}, {"target_modules": ["embed_tokens", "lm_head"]}, False),
    "lora on both, kept tied": (
        {"tied": True},
        {"target_modules": [*LINEAR, "lm_head"], "ensure_weight_tying": True},
        True,
    ),
    "dora": ({}, {"use_dora": True}, False),
    "dora on embedding": (
        {"tied": True},
        {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
        False,
    ),
    "lora_bias": ({"attention_bias": True}, {"lora_bias": True, "target_modules": ["q_proj"]}, False),
    "trained biases": ({"attention_bias": True}, {"bias": "all"}, False),
}


@pytest.mark.parametrize("case", EVERY_KIND_OF_ADAPTER)
def test_reloaded_logits_equal_base_plus_adapter(case: str, tmp_path: Path) -> None:
    model, lora, tied = EVERY_KIND_OF_ADAPTER[case]
    base = save_llama(tmp_path / "base", **model)
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    facts = run(base, adapter, tmp_path / "out")

    expected = logits(with_adapter(base, adapter))
    reloaded = load(tmp_path / "out", torch.float32)
    assert distance(logits(reloaded), expected) < TOLERANCE["float16"]
    assert distance(logits(load(base, torch.float32)), expected) > 0.1, (
        "the adapter must matter for this test"
    )
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is tied
    shared = reloaded.get_input_embeddings().weight is reloaded.get_output_embeddings().weight
    assert shared is tied
    counted = sum(facts.metrics[f"tensors_{how}"] for how in ("merged", "replaced", "copied"))
    assert counted == len(load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("bare_names", [False, True], ids=["full names", "names without the inner model"])
def test_conv1d_models(bare_names: bool, lora: dict[str, Any], tmp_path: Path) -> None:
    base = save_gpt2(tmp_path / "base")
    targets = ["c_attn", "c_proj", "c_fc"]
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=True, **lora)
    expected = logits(with_adapter(base, adapter))
    if bare_names:
        # gpt2 on the hub stores h.0…, not transformer.h.0…
        bare = {k.removeprefix("transformer."): v for k, v in load_file(base / "model.safetensors").items()}
        save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    run(base, adapter, tmp_path / "out")
    assert distance(logits(load(tmp_path / "out", torch.float32)), expected) < TOLERANCE["float16"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rslora", [False, True])
def test_bitwise_equal_to_peft(dtype: Any, rslora: bool, tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", dtype=getattr(torch, dtype))
    adapter = save_adapter(base, tmp_path / "adapter", use_rslora=rslora)
    run(base, adapter, tmp_path / "out", dtype=dtype)
    theirs = with_adapter(base, adapter, getattr(torch, dtype)).merge_and_unload().state_dict()
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_result_dtype_from_another_base_dtype(dtype: Any, tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", dtype=torch.float32)
    adapter = save_adapter(base, tmp_path / "adapter")
    facts = run(base, adapter, tmp_path / "out", dtype=dtype)
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    config = config_of(tmp_path / "out")
    assert (config["dtype"], config["torch_dtype"], facts.metrics["dtype"]) == (dtype, dtype, dtype)
    assert facts.quant is not None
    assert facts.quant.effective["bits_per_weight"] == 16
    expected = logits(with_adapter(base, adapter))
    assert distance(logits(load(tmp_path / "out", torch.float32)), expected) < TOLERANCE[dtype]


def test_sharded_in_and_out_ignores_stale_shards(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", shard_size="40KB")
    adapter = save_adapter(base, tmp_path / "adapter")
    assert len(list(base.glob("model-*.safetensors"))) > 2
    stale = {"model.layers.0.self_attn.q_proj.weight": torch.full((64, 64), 9.0, dtype=torch.float16)}
    save_file(stale, base / "model-00009-of-00009.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    save_file(stale, out / "model-00007-of-00007.safetensors")

    from stages.backends.merge import merge as fold

    metrics = fold.merge_adapter(base, adapter, out, "float16", None, 60_000)
    names = sorted(file.name for file in out.glob("*.safetensors"))
    total = metrics["shards"]
    assert total > 1
    assert names == [f"model-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)
    expected = logits(with_adapter(base, adapter))
    assert distance(logits(load(out, torch.float32)), expected) < TOLERANCE["float16"]


MEASURE = """
import sys
from pathlib import Path
from stages.backends.merge.merge import merge_adapter
# not ru_maxrss: that of a started process begins at the size of the one that started it
def peak(): return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
for folder in map(Path, sys.argv[1:]):
    merge_adapter(folder / "base", folder / "adapter", folder, "float16", None, 2_000_000_000)
    print("peak", peak())
"""


def test_peak_memory_follows_the_largest_tensor_not_the_model(tmp_path: Path) -> None:
    shallow, deep = tmp_path / "shallow", tmp_path / "deep"
    for folder, layers in ((shallow, 1), (deep, 5)):
        save_synthetic(folder / "base", folder / "adapter", hidden=1024, layers=layers, rank=4, vocab=512)
    specs = files.model_files(deep / "base").specs()
    largest, total = max(spec.bytes for spec in specs), sum(spec.bytes for spec in specs)
    assert total > 20 * largest
    # The shallow merge comes first and warms everything up; the deep one has the same largest tensor.
    # glibc keeps freed blocks for later unless told to give them back, which would blur the figure.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, str(shallow), str(deep)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        check=True,
    )
    first, second = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak "))
    assert second - first < 2 * largest
