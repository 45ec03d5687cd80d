"""Quantization to GPTQ: what the directory holds, what loads it, and calibration."""

from __future__ import annotations

import gc
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.artifacts import QuantSpec
from stages.contract import Facts, Parent
from stages.errors import InvalidInput
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from tests.stages.quantizing import TEXT, dataset_of, effective_of, kl


@pytest.fixture(scope="session")
def gptq(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts, Parent]:
    """Of a copy whose tokenizer was saved by transformers 5, which names a class that 4 does not know."""
    dataset = dataset_of(tmp_path_factory.mktemp("dataset"), rows=40)
    folder = tmp_path_factory.mktemp("parent") / "model"
    shutil.copytree(pico_base.path, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "TokenizersBackend"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out = tmp_path_factory.mktemp("gptq")
    model = pico_base.model_copy(update={"path": folder})
    config = GptqConfig(group_size=64, calibration_rows=16)
    return out, quantize({"model": model, "dataset": dataset}, config, out), dataset


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


def test_gptq_directory_is_complete_for_old_loaders(
    gptq: tuple[Path, Facts, Parent], pico_base: Parent
) -> None:
    from safetensors import safe_open

    out, facts, _ = gptq
    config = json.loads((out / "config.json").read_text())
    parent = json.loads((pico_base.path / "config.json").read_text())
    assert config["rope_theta"] == parent["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == effective_of(facts)["dtype"] == "float16"
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
    effective = effective_of(facts)
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
    assert 0 < kl(parent_logits, logits) < 0.02
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
    assert 0 < kl(parent_logits, logits) < 0.02


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
    dataset, out = dataset_of(tmp_path / "data", rows=1), tmp_path / "out"
    out.mkdir()
    config = GptqConfig(group_size=32, calibration_rows=1, damp_percent=1e-9, dtype="bfloat16")
    effective = effective_of(quantize({"model": pico_base, "dataset": dataset}, config, out))
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
    trained = encode_split(data / "train.parquet", tokenizer, 2048, tmp_path)[0]["input_ids"].tolist()
    assert encode(tokenizer, chat) != trained, "the whole text has a token that reaches across"
    assert choose(folder, data, 1, 0, 2048).rows == [trained]


def test_calibration_is_chosen_by_seed_and_digested(pico_base: Parent, tmp_path: Path) -> None:
    from stages.backends.gptq.calibration import choose

    data = dataset_of(tmp_path / "data", rows=30).path
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
