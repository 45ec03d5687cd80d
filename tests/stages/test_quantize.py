"""GPTQ and GGUF of the pico model: files that load elsewhere, answer as their parent, say what they hold."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from registry.artifacts import QuantSpec
from stages.backends.gguf.convert import require_finite
from stages.backends.gguf.converter import converter_error
from stages.backends.gguf.token_parity import compare_tokenizers
from stages.compatible import require_compatible
from stages.contract import Facts, Parent
from stages.errors import InsufficientResources, InvalidInput, MissingPackage, StageError, StageKilled
from stages.formats import converter_source
from stages.formats.gguf import read_gguf
from stages.formats.gguf_types import main_type
from stages.quantization import QuantizeConfig
from stages.quantization.gguf import GGUF_TYPES, GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from tests.stages.backends.merge.lora_models import save_adapter

TEXT = "The capital of France is Paris, and 12 + 30 = 42.\n"
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "What is 12345 + 67?\n\n  It's   7 o'clock."}],
    [
        {"role": "system", "content": "Réponds en français — 簡潔に。"},
        {"role": "user", "content": "ça va? 🙂👩‍👩‍👧 ñandú"},
    ],
    [{"role": "user", "content": "def f(x):\n\treturn {'a': [x**2, 0x1F]}  # ok\r\n\n"}],
    [
        {"role": "user", "content": "Привет, мир! हिन्दी ไทย"},
        {"role": "assistant", "content": "Hello, world!"},
        {"role": "user", "content": "I'VE 've <|im_end|> trailing   "},
    ],
]


def _dataset(folder: Path, rows: int, answer: str = "topic") -> Parent:
    folder.mkdir(parents=True, exist_ok=True)
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What is text number {k} about, with {k * k % 97} words in it?"},
                {"role": "assistant", "content": f"{answer} {k % 7}"},
            ]
        }
        for k in range(rows)
    ]
    pq.write_table(pa.Table.from_pylist(chats), folder / "train.parquet")
    return Parent(id=hashlib.sha256(str(rows).encode()).hexdigest(), kind="dataset", path=folder)


def _copy_with_pre_tokenizer(base: Parent, folder: Path, steps: list[dict[str, Any]]) -> Parent:
    shutil.copytree(base.path, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    file.write_text(json.dumps(tokenizer, ensure_ascii=False))
    return base.model_copy(update={"path": folder})


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.fixture(scope="session")
def exact_base(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """The pico model with SmolLM2's own pre-tokenizer, which cuts every digit off before anything else."""
    return _copy_with_pre_tokenizer(pico_base, tmp_path_factory.mktemp("exact") / "model", [DIGITS, BYTES])


@pytest.fixture(scope="session")
def gguf_f16(exact_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    out = tmp_path_factory.mktemp("f16")
    return out, quantize({"model": exact_base}, GgufConfig(type="F16"), out)


@pytest.fixture(scope="session")
def gguf_q4(exact_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    """From a copy in another directory, as somebody's own merged model: no quant spec."""
    folder = tmp_path_factory.mktemp("bring-your-own") / "Another Name-7B-v3"
    shutil.copytree(exact_base.path, folder)
    out = tmp_path_factory.mktemp("q4")
    model = Parent(id=exact_base.id, kind="merged", path=folder, base=exact_base.base)
    return out, quantize({"model": model}, GgufConfig(type="q4_k_m"), out)


@pytest.fixture(scope="session")
def gptq(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts, Parent]:
    """Of a copy whose tokenizer was saved by transformers 5, which names a class that 4 does not know."""
    dataset = _dataset(tmp_path_factory.mktemp("dataset"), rows=40)
    folder = tmp_path_factory.mktemp("parent") / "model"
    shutil.copytree(pico_base.path, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "TokenizersBackend"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out = tmp_path_factory.mktemp("gptq")
    model = pico_base.model_copy(update={"path": folder})
    config = GptqConfig(group_size=64, calibration_rows=16)
    return out, quantize({"model": model, "dataset": dataset}, config, out), dataset


@pytest.fixture(scope="session")
def parent_logits(pico_base: Parent) -> Any:
    """Logits of the parent on TEXT, float32, [tokens, vocabulary]."""
    return _hf_logits(pico_base.path)


def _hf_logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids).logits[0].float()


def _kl(parent: Any, child: Any) -> float:
    """Mean over the tokens of KL(parent ‖ child), in nats."""
    import torch.nn.functional as F

    log_p, log_q = F.log_softmax(parent, -1), F.log_softmax(child, -1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def _effective(facts: Facts) -> dict[str, Any]:
    assert facts.quant is not None
    return facts.quant.effective


# --- GGUF: the file ---------------------------------------------------------------------------------------


def test_gguf_reads_rendered_chats_as_the_same_tokens(
    exact_base: Parent, gguf_f16: tuple[Path, Facts]
) -> None:
    import llama_cpp
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exact_base.path)
    engine = llama_cpp.Llama(str(gguf_f16[0] / "model.gguf"), vocab_only=True, verbose=False)
    try:
        for chat in CHATS:
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            expected = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert engine.tokenize(text.encode(), add_bos=False, special=True) == expected
            assert len(expected) > 10
        assert engine.token_bos() == tokenizer.bos_token_id
        assert engine.token_eos() == tokenizer.eos_token_id
        end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
        vocabulary = llama_cpp.llama_model_get_vocab(engine.model)
        ending = [k for k in range(tokenizer.vocab_size) if llama_cpp.llama_vocab_is_eog(vocabulary, k)]
        assert {end_of_turn, tokenizer.eos_token_id} <= set(ending) <= set(tokenizer.added_tokens_decoder)
        assert engine.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    finally:
        engine.close()
    assert _effective(gguf_f16[1])["token_parity"] == {"chats": 4, "equal": 4, "bos": True, "eos": True}


def test_gguf_logits_agree_with_transformers(
    pico_base: Parent, gguf_f16: tuple[Path, Facts], parent_logits: Any
) -> None:
    import llama_cpp
    import torch

    from serving.llama_cpp.amx_workaround import avoid_amx

    avoid_amx()
    engine = llama_cpp.Llama(
        str(gguf_f16[0] / "model.gguf"), n_ctx=64, n_threads=2, logits_all=True, verbose=False
    )
    try:
        engine.eval(engine.tokenize(TEXT.encode(), add_bos=False, special=True))
        found = torch.tensor(engine.scores[: engine.n_tokens])
    finally:
        engine.close()
    # llama.cpp multiplies in float16, transformers here in float32; logits span about ±1.5
    assert found.shape == parent_logits.shape
    assert (found - parent_logits).abs().max() < 0.02
    assert _kl(parent_logits, found) < 1e-4


def test_f16_keeps_every_matrix(gguf_f16: tuple[Path, Facts], exact_base: Parent) -> None:
    out, facts = gguf_f16
    effective = _effective(facts)
    assert sorted(file.name for file in out.iterdir()) == ["model.gguf"]
    assert effective["parameters"] == exact_base.metrics["parameters"]
    assert effective["types"] == {"F16": 15, "F32": 5}
    assert effective["fallbacks"]["count"] == 0
    assert 16 < effective["bits_per_weight"] < 16.01
    assert facts.base == exact_base.base


def test_a_weight_that_float16_made_infinite_is_named(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    for name, second in (("fine", 65504.0), ("broken", np.inf)):
        file = tmp_path / f"{name}.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_tensor("small.weight", np.full((3, 5), 2.0, np.float16))
        writer.add_tensor("large.weight", np.full((7, 1), second, np.float16))
        writer.add_tensor("norm.weight", np.full(4, np.inf, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    require_finite(tmp_path / "fine.gguf", read_gguf(tmp_path / "fine.gguf"))
    with pytest.raises(InvalidInput, match=r"tensor large.weight has weights beyond .* use type: BF16"):
        require_finite(tmp_path / "broken.gguf", read_gguf(tmp_path / "broken.gguf"))


def test_converter_and_runtime_are_of_one_commit(gguf_f16: tuple[Path, Facts]) -> None:
    versions = _effective(gguf_f16[1])["llama_cpp"]
    assert versions["converter"] == versions["runtime"]
    assert versions["converter_commit"].startswith(versions["runtime_commit"].removesuffix("-dirty"))
    assert len(versions["sdist_sha256"]) == 64


def test_effective_types_are_those_in_the_file(gguf_q4: tuple[Path, Facts]) -> None:
    from gguf import GGUFReader

    out, facts = gguf_q4
    effective = _effective(facts)
    tensors = GGUFReader(out / "model.gguf").tensors
    counted: dict[str, int] = {}
    for tensor in tensors:
        counted[tensor.tensor_type.name] = counted.get(tensor.tensor_type.name, 0) + 1
    assert effective["types"] == counted
    bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors) / sum(int(t.n_elements) for t in tensors)
    assert effective["bits_per_weight"] == pytest.approx(bits)
    matrices = sum(len(tensor.shape) > 1 for tensor in tensors)
    assert effective["fallbacks"]["of"] == matrices
    assert effective["fallbacks"]["count"] == matrices - counted["Q4_K"]
    assert effective["fallbacks"]["rows_not_divisible"] == 0
    assert facts.quant is not None
    assert facts.quant.requested == {"method": "gguf", "type": "Q4_K_M"}
    assert facts.quant.merge_base is None


def test_nothing_of_the_directory_gets_into_the_file(
    gguf_f16: tuple[Path, Facts], gguf_q4: tuple[Path, Facts]
) -> None:
    values = [read_gguf(out / "model.gguf").values for out, _ in (gguf_f16, gguf_q4)]
    names = [{k: v for k, v in found.items() if k != "general.file_type"} for found in values]
    assert names[0] == names[1]
    assert b"Name-7B" not in (gguf_q4[0] / "model.gguf").read_bytes()


def test_a_tokenizer_that_cuts_otherwise_is_noticed(
    exact_base: Parent, gguf_f16: tuple[Path, Facts], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the digits' step, spaces before a number go into other tokens; nothing else changes."""
    model = _copy_with_pre_tokenizer(exact_base, tmp_path / "model", [BYTES])
    found = compare_tokenizers(model.path, gguf_f16[0] / "model.gguf")
    assert (found["chats"], found["equal"]) == (4, 3)
    assert "as other tokens from token" in caplog.text


# --- GGUF: what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"), [("Q4_K_X", "Q4_K_M"), ("q5km", "Q5_K_M"), ("IQ2_XXS", "importance matrix")]
)
def test_unknown_type_names_the_nearest(name: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(QuantizeConfig).validate_python({"method": "gguf", "type": name})


def test_type_that_the_runtime_lacks_is_refused_before_writing(pico_base: Parent, tmp_path: Path) -> None:
    config = GgufConfig.model_construct(method="gguf", type="Q4_9")
    with pytest.raises(InvalidInput, match=r"does not know the file type 'Q4_9'.*Q4_K_M"):
        quantize({"model": pico_base}, config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_offered_type_is_one_of_the_runtime() -> None:
    import llama_cpp
    from gguf.constants import GGMLQuantizationType

    for name in GGUF_TYPES:
        prefix = "ALL" if name == "F32" else "MOSTLY"
        assert hasattr(llama_cpp, f"LLAMA_FTYPE_{prefix}_{name}")
        assert main_type(name) in GGMLQuantizationType.__members__


def test_unknown_pre_tokenizer_is_explained(pico_base: Parent, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"String": "e"}, "behavior": "Isolated", "invert": False}
    model, out = _copy_with_pre_tokenizer(pico_base, tmp_path / "model", [split, BYTES]), tmp_path / "out"
    out.mkdir()
    with pytest.raises(InvalidInput, match=r"pre-tokenizer hash [0-9a-f]{64}.*method: gptq"):
        quantize({"model": model}, GgufConfig(type="F16"), out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "code", "kind", "said"),
    [
        ("ERROR:hf-to-gguf:Model FooForCausalLM is not supported", 1, InvalidInput, "FooForCausalLM"),
        (
            "x\nModuleNotFoundError: No module named 'sentencepiece'",
            1,
            MissingPackage,
            "pip install sentencepiece",
        ),
        ("OSError: [Errno 28] No space left on device", 1, InsufficientResources, "full"),
        ("ValueError: Can not map tensor 'a.b'", 1, InvalidInput, "a.b"),
        ("", -9, StageKilled, "signal 9"),
        ("ValueError: odd\r\n", 1, StageError, "odd"),
    ],
)
def test_converter_errors_are_readable(stderr: str, code: int, kind: type[StageError], said: str) -> None:
    error = converter_error(stderr, code)
    assert type(error) is kind
    assert said in str(error)


def test_missing_converter_names_the_command(
    pico_base: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter_source, "home", lambda: tmp_path / "nowhere")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(MissingPackage, match=r"python -m stages\.formats\.converter_source"):
        quantize({"model": pico_base}, GgufConfig(), out)
    assert list(out.iterdir()) == []


def test_an_adapter_becomes_a_gguf_adapter(pico_base: Parent, tmp_path: Path) -> None:
    peft = save_adapter(pico_base.path, tmp_path / "peft")
    adapter = Parent(id="a" * 64, kind="adapter", path=peft, base=pico_base.base)
    out = tmp_path / "out"
    out.mkdir()
    parents = {"model": adapter, "base": pico_base}
    with pytest.raises(InvalidInput, match=r"Q4_K_M is not for adapters.*F32, F16, BF16, Q8_0"):
        quantize(parents, GgufConfig(), out)
    facts = quantize(parents, GgufConfig(type="F16"), out)
    assert [file.name for file in out.iterdir()] == ["model.gguf"]
    assert facts.kind == "adapter"
    assert facts.base == pico_base.base
    assert facts.quant is not None
    assert facts.quant.effective["content"] == "lora"
    assert facts.quant.effective["pairs"] == 14, "seven matrices of two layers"
    assert facts.metrics["bytes"] == (out / "model.gguf").stat().st_size
    require_compatible("quantize", GgufConfig(type="F16"), parents)
    done = adapter.model_copy(update={"quant": facts.quant})
    with pytest.raises(InvalidInput, match="a GGUF adapter already"):
        quantize({"model": done, "base": pico_base}, GgufConfig(type="F16"), out)


def test_quantized_models_adapters_and_remote_code_are_refused(
    pico_base: Parent, gptq: tuple[Path, Facts, Parent], tmp_path: Path
) -> None:
    spec = pico_base.model_copy(update={"quant": QuantSpec(method="gguf")})
    with pytest.raises(InvalidInput, match=r"already quantized \(gguf\)"):
        quantize({"model": spec}, GgufConfig(), tmp_path)
    bare = Parent(id=pico_base.id, kind="merged", path=gptq[0])
    with pytest.raises(InvalidInput, match=r"already quantized \(gptq\)"):
        quantize({"model": bare}, GgufConfig(), tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"is an adapter.*give that too"):
        quantize({"model": bare.model_copy(update={"path": adapter})}, GgufConfig(), tmp_path)
    with pytest.raises(InvalidInput, match="is an adapter, and GPTQ is for whole models; merge it into its"):
        quantize({"model": bare.model_copy(update={"path": adapter})}, GptqConfig(), tmp_path)
    (adapter / "adapter_config.json").unlink()
    (adapter / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    with pytest.raises(InvalidInput, match="never run here"):
        quantize({"model": bare.model_copy(update={"path": adapter})}, GgufConfig(), tmp_path)


@pytest.mark.parametrize("config", [GgufConfig(), GptqConfig(group_size=64, calibration_rows=2)])
def test_full_disk_is_noticed_before_writing(
    config: Any, pico_base: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = _dataset(tmp_path / "data", rows=4), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(InsufficientResources, match=r"needs 0\.\d GB .* 0\.0 GB free"):
        quantize({"model": pico_base, "dataset": dataset}, config, out)
    assert list(out.iterdir()) == []


def test_cut_file_is_refused(gguf_f16: tuple[Path, Facts], tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    whole = (gguf_f16[0] / "model.gguf").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match="cut short before the end of tensor"):
        read_gguf(file)


# --- GPTQ -------------------------------------------------------------------------------------------------


def test_gptq_directory_is_complete_for_old_loaders(
    gptq: tuple[Path, Facts, Parent], pico_base: Parent
) -> None:
    from safetensors import safe_open

    out, facts, _ = gptq
    config = json.loads((out / "config.json").read_text())
    parent = json.loads((pico_base.path / "config.json").read_text())
    assert config["rope_theta"] == parent["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == _effective(facts)["dtype"] == "float16"
    assert config["quantization_config"] == json.loads((out / "quantize_config.json").read_text())
    assert config["quantization_config"]["checkpoint_format"] == "gptq"
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == (pico_base.path / "chat_template.jinja").read_text()
    assert (out / "tokenizer.json").read_bytes() == (pico_base.path / "tokenizer.json").read_bytes()
    with safe_open(out / "model.safetensors", "pt") as tensors:
        assert tensors.get_tensor("lm_head.weight").equal(tensors.get_tensor("model.embed_tokens.weight"))
        dtypes = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    assert dtypes == {"F16", "I32"}
    leftovers = {file.name for file in out.iterdir()}
    assert not {name for name in leftovers if name.startswith(".") or name.endswith(".csv")}
    assert str(out.parent) not in (out / "config.json").read_text() + (out / "gptq_layers.json").read_text()


def test_gptq_facts_say_what_happened(gptq: tuple[Path, Facts, Parent], pico_base: Parent) -> None:
    out, facts, dataset = gptq
    effective = _effective(facts)
    assert facts.quant is not None
    assert facts.quant.calibration_dataset == dataset.id
    assert effective["calibration"]["rows"] == 16
    assert effective["bytes"] == (out / "model.safetensors").stat().st_size
    # 4 bits, and per 64 of them a 16-bit scale and a 4-bit zero, and per column a 32-bit index
    assert 4.3 < effective["packed_bits_per_weight"] < 4.6
    assert effective["modules"] == 14
    assert len(effective["loss_by_layer"]) == 2
    assert all(0 < loss < 1 and math.isfinite(loss) for loss in effective["loss_by_layer"])
    assert effective["fallbacks"] == []
    layers = json.loads((out / "gptq_layers.json").read_text())
    assert {row["samples"] for row in layers} == {effective["calibration"]["tokens"]}
    assert sum(row["loss"] for row in layers) == pytest.approx(sum(effective["loss_by_layer"]))


# optimum makes a GPTQModel config of its own, and that a temporary directory that it never uses
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up <TemporaryDirectory '.*gptqmodel_:ResourceWarning")
def test_gptq_loads_in_transformers_and_stays_near_its_parent(
    gptq: tuple[Path, Facts, Parent], parent_logits: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gptq[0], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(gptq[0])
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    assert torch.isfinite(logits).all()
    assert 0 < _kl(parent_logits, logits) < 0.02
    answer = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
    )
    assert answer.shape[1] > ids.shape[1]
    del model
    gc.collect()


def test_gptq_loads_in_gptqmodel(gptq: tuple[Path, Facts, Parent], parent_logits: Any) -> None:
    import torch
    from gptqmodel import BACKEND, GPTQModel

    model = GPTQModel.load(str(gptq[0]), device="cpu", backend=BACKEND.TORCH)
    ids = model.tokenizer(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model.model(input_ids=ids).logits[0].float()
    assert torch.isfinite(logits).all()
    assert 0 < _kl(parent_logits, logits) < 0.02


def test_gptq_is_the_same_twice_tells_layers_and_keeps_stdout_clean(
    gptq: tuple[Path, Facts, Parent],
    pico_base: Parent,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, facts, dataset = gptq
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere))
    again = tmp_path / "again"
    again.mkdir()
    bare = Parent(id=pico_base.id, kind="merged", path=pico_base.path)
    with caplog.at_level("INFO", "tuneline.stage"):
        repeated = quantize(
            {"model": bare, "dataset": dataset}, GptqConfig(group_size=64, calibration_rows=16), again
        )
    assert repeated == facts.model_copy(update={"base": None})
    for name in ("model.safetensors", "config.json", "quantize_config.json", "gptq_layers.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    told = [record.progress for record in caplog.records if hasattr(record, "progress")]
    assert [(step["done"], step["total"], step["unit"]) for step in told] == [
        (1, 2, "layers"),
        (2, 2, "layers"),
    ]
    assert capfd.readouterr().out == ""
    assert list(elsewhere.iterdir()) == []


def test_too_few_rows_raise_the_damping_and_say_so(pico_base: Parent, tmp_path: Path) -> None:
    """One short row gives Hessians of low rank; with hardly any damping they have no Cholesky factor."""
    dataset, out = _dataset(tmp_path / "data", rows=1), tmp_path / "out"
    out.mkdir()
    config = GptqConfig(group_size=32, calibration_rows=1, damp_percent=1e-9, dtype="bfloat16")
    effective = _effective(quantize({"model": pico_base, "dataset": dataset}, config, out))
    assert effective["damping_raised"]
    assert all(damp > 1e-4 for damp in effective["damping_raised"].values())
    assert effective["fallbacks"] == []
    assert effective["types"].keys() == {"BF16", "I32"}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_calibration_reads_what_training_read(pico_base: Parent, tmp_path: Path) -> None:
    """Also where prompt and answer would share a token, which an engine never sees."""
    from stages.backends.chat import encode, load_tokenizer
    from stages.backends.gptq.calibration import choose
    from stages.backends.train.rows import encode_split

    folder = tmp_path / "model"
    shutil.copytree(pico_base.path, folder)
    end = "{{ eos_token }}"
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q: ' + m.content + ' A:' }}"
        "{% else %}{{ m.content }}" + end + "{% endif %}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    chat = [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": "::: this one, and no other of them all"},
    ]
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(pa.Table.from_pylist([{"messages": chat}]), data / "train.parquet")
    tokenizer = load_tokenizer(folder)
    trained = encode_split(data / "train.parquet", tokenizer, 2048).input_ids
    assert encode(tokenizer, chat) != trained[0], "the whole text has a token that reaches across"
    assert choose(folder, data, 1, 0, 2048).rows == trained


def test_calibration_is_chosen_by_seed_and_digested(pico_base: Parent, tmp_path: Path) -> None:
    from stages.backends.gptq.calibration import choose

    data = _dataset(tmp_path / "data", rows=30).path
    first = choose(pico_base.path, data, 8, 0, 2048)
    assert choose(pico_base.path, data, 8, 0, 2048) == first
    assert choose(pico_base.path, data, 8, 1, 2048).sha256 != first.sha256
    everything = choose(pico_base.path, data, 99, 0, 2048)
    assert len(everything.rows) == 30
    assert all(row in everything.rows for row in first.rows)
    cut = choose(pico_base.path, data, 99, 0, 12)
    assert {len(row) for row in cut.rows} == {12}
    with pytest.raises(InvalidInput, match="at least 11 tokens"):
        choose(pico_base.path, data, 99, 0, 10)


def test_gptq_without_calibration_data_says_what_to_give(pico_base: Parent, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="prepared dataset to calibrate on"):
        quantize({"model": pico_base}, GptqConfig(group_size=64), tmp_path)
    empty = Parent(id="0" * 64, kind="dataset", path=tmp_path)
    with pytest.raises(InvalidInput, match=r"no train\.parquet"):
        quantize({"model": pico_base, "dataset": empty}, GptqConfig(group_size=64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_stage_loads_no_framework() -> None:
    code = (
        "import sys, stages.quantize; print(sorted({'torch', 'gptqmodel', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
