"""GPTQ and GGUF of the pico model: files that load elsewhere, answer as their parent, say what they hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

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
from tests.stages.quantizing import TEXT, dataset_of, effective_of, kl

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
    assert effective_of(gguf_f16[1])["token_parity"] == {"chats": 4, "equal": 4, "bos": True, "eos": True}


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
    assert kl(parent_logits, found) < 1e-4


def test_f16_keeps_every_matrix(gguf_f16: tuple[Path, Facts], exact_base: Parent) -> None:
    out, facts = gguf_f16
    effective = effective_of(facts)
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
    versions = effective_of(gguf_f16[1])["llama_cpp"]
    assert versions["converter"] == versions["runtime"]
    assert versions["converter_commit"].startswith(versions["runtime_commit"].removesuffix("-dirty"))
    assert len(versions["sdist_sha256"]) == 64


def test_effective_types_are_those_in_the_file(gguf_q4: tuple[Path, Facts]) -> None:
    from gguf import GGUFReader

    out, facts = gguf_q4
    effective = effective_of(facts)
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


@pytest.mark.parametrize("config", [GgufConfig(), GptqConfig(group_size=64, calibration_rows=2)])
def test_full_disk_is_noticed_before_writing(
    config: Any, pico_base: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = dataset_of(tmp_path / "data", rows=4), tmp_path / "out"
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


def test_importing_the_stage_loads_no_framework() -> None:
    code = (
        "import sys, stages.quantize; print(sorted({'torch', 'gptqmodel', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
