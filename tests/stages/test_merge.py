"""merge: equal to base + adapter and to PEFT's merge, in little memory; refuses what it cannot do exactly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file

from registry.artifacts import BaseReference
from registry.errors import Incompatible
from stages.backends import safetensors as files
from stages.backends.chat import load_tokenizer
from stages.backends.merge.layout import layout
from stages.backends.nf4 import load_nf4
from stages.config.merge import MergeConfig
from stages.config.train import Nf4Config
from stages.contract import Facts, Parent
from stages.errors import InsufficientResources, InvalidInput
from stages.merge import merge
from tests.stages.backends.merge.lora_models import (
    LINEAR,
    distance,
    load,
    logits,
    save_adapter,
    save_gpt2,
    save_llama,
    save_synthetic,
    save_tokenizer,
    with_adapter,
)

pytestmark = [
    # PEFT's notice on exactly the adapters whose merge is tested here
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning"),
    # PEFT takes the bias of lora_bias=True for a cut matrix
    pytest.mark.filterwarnings("ignore:Adapter 'default'. 2 LoRA tensor.s. have invalid shape"),
]

# Rounding every weight to float16 (11 significant bits) moves the logits of these models by up to about 5e-4
# of their norm; bfloat16 has 8 bits, so eight times that.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2}


ADAPTER, BASE = "adapter_model.safetensors", "model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = "base_model.model.lm_head"


def parent(path: Path, kind: Any = "base", base: BaseReference | None = None) -> Parent:
    return Parent(id="0" * 64, kind=kind, path=path, base=base)


def run(base: Path, adapter: Path, out: Path, /, **config: Any) -> Facts:
    out.mkdir(exist_ok=True)
    return merge({"base": parent(base), "adapter": parent(adapter, "adapter")}, MergeConfig(**config), out)


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit_tensors(file: Path, change: Any) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untied float16 Llama and a rank-4 adapter on all linear layers; read-only."""
    folder = tmp_path_factory.mktemp("plain")
    base = save_llama(folder / "base")
    return base, save_adapter(base, folder / "adapter")


@pytest.fixture
def own(plain: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of `plain` that a test may damage."""
    return shutil.copytree(plain[0], tmp_path / "base"), shutil.copytree(plain[1], tmp_path / "adapter")


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


def test_carries_tokenizer_template_and_generation_config(pico_base: Parent, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    adapter = save_adapter(pico_base.path, tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    facts = merge({"base": pico_base, "adapter": parent(adapter, "adapter")}, MergeConfig(), out)
    chat = [{"role": "user", "content": "Hello"}]
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (pico_base.path, out))
    assert after.apply_chat_template(chat) == before.apply_chat_template(chat)
    assert (out / "generation_config.json").read_bytes() == (
        pico_base.path / "generation_config.json"
    ).read_bytes()
    assert facts.base == pico_base.base


def test_added_vocabulary_travels_with_the_adapter(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", rows=104, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(InvalidInput, match="resizes the embedding to 104 rows but carries no tokenizer"):
        run(base, adapter, tmp_path / "out")
    save_tokenizer(104, adapter)
    run(base, adapter, tmp_path / "out")
    assert config_of(tmp_path / "out")["vocab_size"] == 104
    assert len(load_tokenizer(tmp_path / "out")) == 104
    trained = load_file(adapter / ADAPTER)[f"{HEAD}.weight"]
    assert torch.equal(load(tmp_path / "out", torch.float32).lm_head.weight, trained.half().float())
    edit_tensors(adapter / ADAPTER, lambda t: t[f"{HEAD}.modules_to_save.weight"].zero_())
    with pytest.raises(InvalidInput, match="both replace one weight and differ"):
        run(base, adapter, tmp_path / "again")
    edit_tensors(adapter / ADAPTER, lambda t: [t.pop(name) for name in list(t) if name.startswith(HEAD)])
    with pytest.raises(InvalidInput, match="resizes one embedding and not the other"):
        run(base, adapter, tmp_path / "again")


def test_an_adapter_s_own_tokenizer_and_template_are_the_merged_model_s(tmp_path: Path) -> None:
    """Tokens added within the embedding's padding rows need no resized embedding."""
    base = save_llama(tmp_path / "base")
    save_tokenizer(90, base, "{{ messages[0].content }}")
    adapter = save_adapter(base, tmp_path / "adapter")
    save_tokenizer(94, adapter, "### {{ messages[0].content }}")
    run(base, adapter, tmp_path / "out")
    merged = load_tokenizer(tmp_path / "out")
    assert merged("w91 w93", add_special_tokens=False)["input_ids"] == [91, 93]
    assert merged.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False) == "### w1"
    save_tokenizer(97, adapter)
    with pytest.raises(InvalidInput, match="97 token ids, but the embedding has only 96 rows"):
        run(base, adapter, tmp_path / "again")


def test_a_template_of_its_own_is_recorded(pico_base: Parent, tmp_path: Path) -> None:
    adapter = save_adapter(pico_base.path, tmp_path / "adapter")
    shutil.copyfile(pico_base.path / "tokenizer.json", adapter / "tokenizer.json")
    shutil.copyfile(pico_base.path / "tokenizer_config.json", adapter / "tokenizer_config.json")
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    parents = {"base": pico_base, "adapter": parent(adapter, "adapter")}
    (tmp_path / "out").mkdir()
    quant = merge(parents, MergeConfig(), tmp_path / "out").quant
    assert quant is not None
    digest = hashlib.sha256(b"{{ messages[0].content }}").hexdigest()
    assert quant.effective["chat_template"] == {"present": True, "sha256": digest}


# --- folding into NF4 ---


def test_nf4_fold_is_what_training_saw(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    # only q_proj is adapted; every other quantized layer must go through NF4 all the same
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    facts = run(base, adapter, tmp_path / "out", base="nf4", dtype="bfloat16")
    live = load_nf4(base, Nf4Config(), "packed")
    quantized = {name for name, module in live.named_modules() if type(module).__name__ == "Linear4bit"}
    assert layout(base).quantized == quantized
    assert facts.metrics["tensors_rounded_to_nf4"] == len(quantized) == 14
    assert facts.quant is not None
    assert facts.quant.merge_base == "nf4"

    ours = load_file(tmp_path / "out" / "model.safetensors")
    untouched = live.get_submodule("model.layers.1.mlp.down_proj").weight
    dequantized = dequantize_4bit(untouched.data, untouched.quant_state)
    assert torch.equal(ours["model.layers.1.mlp.down_proj.weight"], dequantized)
    original = load_file(base / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(ours[name], original[name].bfloat16())
    expected = logits(PeftModel.from_pretrained(load_nf4(base, Nf4Config(), "dequantized"), adapter).float())
    assert distance(logits(load(tmp_path / "out", torch.float32)), expected) < TOLERANCE["bfloat16"]
    run(base, adapter, tmp_path / "16bit", dtype="bfloat16")
    other = distance(logits(load(tmp_path / "16bit", torch.float32)), expected)
    assert other > 3 * TOLERANCE["bfloat16"], "the fold must matter for this test"


def test_nf4_uses_the_recorded_double_quantization(own: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = own
    results = []
    for double_quant in (True, False):
        record = {"quant": {"requested": {"double_quant": double_quant}}}
        (adapter / "tuneline.json").write_text(json.dumps(record))
        out = tmp_path / f"out-{double_quant}"
        run(base, adapter, out, base="nf4")
        results.append(load_file(out / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    assert not torch.equal(*results)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_conv1d_goes_through_nf4_as_in_training(tmp_path: Path) -> None:
    base = save_gpt2(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_fc"], fan_in_fan_out=True)
    run(base, adapter, tmp_path / "out", base="nf4")
    live = load_nf4(base, Nf4Config(), "packed").get_submodule("transformer.h.0.attn.c_attn").weight
    seen_in_training = dequantize_4bit(live.data, live.quant_state).T
    ours = load_file(tmp_path / "out" / "model.safetensors")["transformer.h.0.attn.c_attn.weight"]
    assert torch.equal(ours, seen_in_training.half())


# --- refusals: one message that names the thing, nothing left behind ---


DAMAGES: dict[str, tuple[Any, str]] = {
    "pickled adapter": (
        lambda b, a: (a / ADAPTER).rename(a / "adapter_model.bin"),
        "found only adapter_model.bin, which is pickled",
    ),
    "no adapter": (lambda b, a: (a / "adapter_config.json").unlink(), "no adapter_config.json"),
    "pickled base": (lambda b, a: (b / BASE).rename(b / "pytorch_model.bin"), "only pickled weights"),
    "two sets of weights": (
        lambda b, a: (b / "model.safetensors.index.json").write_text("{}"),
        "holds both model.safetensors and model.safetensors.index.json",
    ),
    "quantized base": (
        lambda b, a: edit_json(b / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        r"is quantized \(bitsandbytes\)",
    ),
    "packed base": (
        lambda b, a: edit_tensors(
            b / BASE,
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight": torch.zeros(4096, 1, dtype=torch.uint8)}
            ),
        ),
        r"model.layers.0.mlp.up_proj.weight \(U8 .*belongs to quantized weights",
    ),
    "another method": (
        lambda b, a: edit_json(a / "adapter_config.json", peft_type="IA3"),
        "is a IA3 adapter",
    ),
    "unknown variant": (
        lambda b, a: edit_json(a / "adapter_config.json", alora_invocation_tokens=[1, 2]),
        r"sets alora_invocation_tokens = \[1, 2\]",
    ),
    "initialised from the base": (
        lambda b, a: edit_json(a / "adapter_config.json", init_lora_weights="pissa_niter_4"),
        "initialised with pissa_niter_4",
    ),
    "another rank": (
        lambda b, a: edit_json(a / "adapter_config.json", r=8),
        r"lora_A.weight has shape .* for rank 8",
    ),
    "half a pair": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t.pop(f"{Q}.lora_B.weight")),
        "expected lora_A and lora_B",
    ),
    "wrong shape": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 63)})),
        r"q_proj.lora_A.weight has shape \(4, 63\), expected \(4, 64\)",
    ),
    "no such module": (
        lambda b, a: edit_tensors(
            a / ADAPTER,
            lambda t: t.update({k.replace("layers.0", "layers.7"): v.clone() for k, v in list(t.items())}),
        ),
        "model.layers.7.*, which the base model does not have",
    ),
    "not a weight of a linear layer": (
        lambda b, a: edit_tensors(
            a / ADAPTER,
            lambda t: t.update({"base_model.model.model.norm.lora_A.weight": torch.ones(4, 64)}),
        ),
        "model.norm is not a Linear, Conv1D or Embedding",
    ),
    "trained tokens": (
        lambda b, a: edit_tensors(
            a / ADAPTER,
            lambda t: t.update(
                {
                    "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(
                        2, 64
                    )
                }
            ),
        ),
        "embed_tokens.token_adapter.trainable_tokens_delta",
    ),
    "stray magnitude": (
        lambda b, a: edit_tensors(
            a / ADAPTER, lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(64)})
        ),
        "use_dora = False, but model.layers.0.self_attn.q_proj has a lora_magnitude_vector",
    ),
    "bias where the base has none": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t.update({f"{Q}.lora_B.bias": torch.ones(64)})),
        "q_proj.lora_B.bias changes model.layers.0.self_attn.q_proj.bias, which the base model does not have",
    ),
    "integers in the adapter": (
        lambda b, a: edit_tensors(
            a / ADAPTER, lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 64, dtype=torch.int8)})
        ),
        "has dtype I8",
    ),
    "NaN in the adapter": (
        lambda b, a: edit_tensors(a / ADAPTER, lambda t: t[f"{Q}.lora_A.weight"].fill_(float("nan"))),
        "adapter tensor .*q_proj.lora_A.weight already holds such values",
    ),
    "infinity in the base": (
        lambda b, a: edit_tensors(b / BASE, lambda t: t["model.norm.weight"].fill_(float("-inf"))),
        "tensor model.norm.weight would hold NaN or infinite values; base tensor model.norm.weight already",
    ),
    "cut file": (
        lambda b, a: (a / ADAPTER).write_bytes((a / ADAPTER).read_bytes()[:-100]),
        "adapter_model.safetensors is not a readable safetensors file",
    ),
    "not a language model": (
        lambda b, a: edit_json(b / "config.json", model_type="vit", architectures=["ViTModel"]),
        "does not describe a causal language model",
    ),
    "unknown architecture": (
        lambda b, a: edit_json(
            b / "config.json", model_type="brandnew", architectures=["BrandNewForCausalLM"]
        ),
        "does not describe a causal language model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_refused_by_name_and_nothing_left(damage: str, own: tuple[Path, Path], tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    change(*own)
    with pytest.raises(InvalidInput, match=message):
        run(*own, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_out_of_float16_range_offers_bfloat16(own: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = own
    edit_tensors(adapter / ADAPTER, lambda t: t[f"{Q}.lora_A.weight"].mul_(1e6))
    with pytest.raises(InvalidInput, match=r"q_proj.weight reaches .*merge.dtype: bfloat16") as caught:
        run(base, adapter, tmp_path / "out")
    assert "model.layers.0.self_attn.q_proj.weight" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    facts = run(base, adapter, tmp_path / "out", dtype="bfloat16")
    assert facts.metrics["largest_absolute_value"] > 65504


def test_another_base_is_refused(plain: tuple[Path, Path], pico_base: Parent, tmp_path: Path) -> None:
    assert pico_base.base is not None
    other = pico_base.base.model_copy(update={"weights_digest": "f" * 64})
    adapter = parent(plain[1], "adapter", other)
    with pytest.raises(Incompatible, match="weights_digest"):
        merge({"base": pico_base, "adapter": adapter}, MergeConfig(), tmp_path)
    recorded = shutil.copytree(plain[1], tmp_path / "recorded")
    (recorded / "tuneline.json").write_text(json.dumps({"base": {"id": "a" * 64, **other.model_dump()}}))
    with pytest.raises(Incompatible, match="weights_digest"):
        merge({"base": pico_base, "adapter": parent(recorded, "adapter")}, MergeConfig(), tmp_path)


def test_no_room_is_said_before_writing(
    plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InsufficientResources, match="merged model"):
        run(*plain, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- the writer, and memory ---

TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(
        st.sampled_from(sorted(files.DTYPES.values(), key=str)),
        st.lists(st.integers(0, 5), max_size=3),
        st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(described=TENSORS, shard_size=st.integers(1, 400))
def test_written_files_read_back_identical(described: Any, shard_size: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = {}
    for name, (dtype, shape, seed) in described.items():
        raw = torch.randint(
            0, 2 if dtype == torch.bool else 120, shape, generator=torch.Generator().manual_seed(seed)
        )
        tensors[name] = raw.to(dtype)
    specs = [files.TensorSpec(n, files.CODES[t.dtype], tuple(t.shape)) for n, t in tensors.items()]
    written = files.write_model(folder, specs, shard_size, tensors.__getitem__)
    library = {name: tensor for file in written for name, tensor in load_file(folder / file).items()}
    ours = files.model_files(folder)
    assert library.keys() == tensors.keys() == set(ours)
    for name, tensor in tensors.items():
        for read in (library[name], ours.read(name)):
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)


def test_writer_refuses_what_was_not_announced(tmp_path: Path) -> None:
    spec = files.TensorSpec("w", "F16", (2, 3))
    with pytest.raises(ValueError, match="announced F16"):
        files.write_file(
            tmp_path / "x.safetensors", [spec], lambda name: torch.zeros(3, 2, dtype=torch.float16)
        )


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
