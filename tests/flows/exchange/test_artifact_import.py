"""What other libraries made, adopted: described, refused where it does not fit, and usable afterwards."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.errors import Usage
from flows.exchange.artifact_import import Adoption, adopt
from flows.run.find_or_make import as_parent
from flows.run.standalone_stage import run_plain
from registry import Artifact, Registry
from registry.artifacts import StageResult, memo_key
from registry.catalog import ResourceUse
from registry.compat.contract import examine
from registry.compat.model import Use, pair
from registry.errors import Incompatible
from registry.processes import ProcessId
from serving.engine.capabilities import limits
from serving.process.process import stop
from stages.compatible import require_compatible
from stages.config.deploy import DeployConfig
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.contract import Parent
from stages.deploy import deploy
from stages.errors import InvalidInput
from stages.evaluate import evaluate
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from tests.seconds import seconds
from tests.stages.backends.merge.lora_models import save_adapter, save_llama

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("import") / "home"


@pytest.fixture(scope="module")
def registry(home: Path) -> Iterator[Registry]:
    with Registry.open(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def base(registry: Registry, pico_base: Parent) -> Artifact:
    with registry.draft(memo_key("resolve", 1, {}, {}, {}), "resolve") as draft:
        shutil.copytree(pico_base.path, draft.path, dirs_exist_ok=True)
        facts = {"base": pico_base.base, "quant": pico_base.quant, "metrics": pico_base.metrics}
        result = StageResult(kind="base", stage="resolve", stage_version=1, **facts)
        return draft.commit(result, ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 1.0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("dataset")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is text number {k} about?"},
                {"role": "assistant", "content": f"topic {k % 3}"},
            ]
        }
        for k in range(40)
    ]
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return Parent(id="d" * 64, kind="dataset", path=folder)


@pytest.fixture(scope="module")
def peft_adapter(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PEFT saves it: no revision, a local path for a base, a model card."""
    return save_adapter(pico_base.path, tmp_path_factory.mktemp("peft") / "adapter", r=4)


@pytest.fixture(scope="module")
def merged_model(pico_base: Parent, peft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PEFT and transformers save it, tokenizer included."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("transformers") / "merged"
    network = AutoModelForCausalLM.from_pretrained(pico_base.path, dtype=torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PeftModel.from_pretrained(network, str(peft_adapter)).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(pico_base.path).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gguf_file(pico_base: Parent, merged_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf")
    model = Parent(id="e" * 64, kind="merged", path=merged_model, base=pico_base.base)
    quantize({"model": model}, GgufConfig(type="Q8_0"), out)
    return (out / "model.gguf").rename(out / "Pico-14M.Q8_0.gguf")


@pytest.fixture(scope="module")
def gptq_folder(pico_base: Parent, dataset: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gptq") / "model"
    out.mkdir()
    quantize({"model": pico_base, "dataset": dataset}, GptqConfig(group_size=64, calibration_rows=16), out)
    return out


@pytest.fixture(scope="module")
def adapter(registry: Registry, base: Artifact, peft_adapter: Path) -> Adoption:
    return adopt(registry, peft_adapter, base=base.id)


@pytest.fixture(scope="module")
def merged(registry: Registry, base: Artifact, merged_model: Path) -> Adoption:
    return adopt(registry, merged_model, base=base.id)


@pytest.fixture(scope="module")
def gguf(registry: Registry, merged: Adoption, gguf_file: Path) -> Adoption:
    return adopt(registry, gguf_file, base=merged.artifact.id)


@pytest.fixture(scope="module")
def gptq(registry: Registry, base: Artifact, gptq_folder: Path) -> Adoption:
    return adopt(registry, gptq_folder, base=base.id)


def told(lines: list[str]) -> str:
    return "\n".join(lines)


def test_an_adapter_says_what_is_known_and_what_is_not(adapter: Adoption, base: Artifact) -> None:
    manifest = adapter.artifact.manifest
    assert (manifest.kind, manifest.base) == ("adapter", base.manifest.base)
    assert [(p.relation, p.id) for p in manifest.parents] == [("adapter", base.id)]
    assert set(manifest.files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert manifest.metrics["outline"]["rank"] == 4
    assert manifest.quant is not None
    assert manifest.quant.method == "none", "no recipe is made up"
    established, unknown = told(adapter.findings.established), told(adapter.findings.not_established)
    assert "targets: 14 modules" in established
    assert "all finite" in established
    assert "quant recipe in training" in unknown
    assert "revision: adapter_config.json names" in unknown
    assert "was given with --base" in told(adapter.findings.claimed)
    assert manifest.metrics["import"] == vars(adapter.findings)
    assert adapter.left_out == ["README.md"]


def test_a_merged_model_is_compared_tensor_by_tensor_and_id_by_id(merged: Adoption) -> None:
    manifest = merged.artifact.manifest
    assert manifest.kind == "merged"
    assert [p.relation for p in manifest.parents] == ["finetune"]
    assert manifest.quant is not None
    assert manifest.quant.merge_base is None
    established = told(merged.findings.established)
    assert "tensors: 11 kinds" in established
    assert "vocabulary" in established or "byte for byte the base's" in established
    assert "merge base" in told(merged.findings.not_established)


def test_a_gguf_keeps_what_its_metadata_say(gguf: Adoption, merged: Adoption) -> None:
    quant = gguf.artifact.manifest.quant
    assert quant is not None
    assert (quant.method, quant.effective["file_type"]) == ("gguf", "Q8_0")
    assert quant.effective["types"]["Q8_0"] == 15
    assert quant.requested == {}, "what was asked for is not known"
    assert set(gguf.artifact.manifest.files) == {"model.gguf"}
    assert [p.id for p in gguf.artifact.manifest.parents] == [merged.artifact.id]
    assert "chat template: the base's" in told(gguf.findings.established)
    assert "49152 embedding rows of 256, 2 blocks" in told(gguf.findings.established)


def test_a_gptq_checkpoint_keeps_its_settings(gptq: Adoption) -> None:
    quant = gptq.artifact.manifest.quant
    assert quant is not None
    assert (quant.method, quant.effective["bits"], quant.effective["group_size"]) == ("gptq", 4, 64)
    assert quant.calibration_dataset is None
    assert "calibration data" in told(gptq.findings.not_established)
    assert 4 < quant.effective["bits_per_weight"] < 32


def test_the_older_form_of_auto_gptq_is_put_where_engines_look(
    registry: Registry, base: Artifact, gptq_folder: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(gptq_folder, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    settings = config.pop("quantization_config")
    (old / "config.json").write_text(json.dumps(config))
    known = {key: settings[key] for key in ("bits", "group_size", "desc_act", "sym")}
    local = {"model_name_or_path": "/home/somebody/model", "model_file_base_name": "gptq_model-4bit-64g"}
    (old / "quantize_config.json").write_text(json.dumps(known | local | {"damp_percent": 0.01}))
    (old / "model.safetensors").rename(old / "gptq_model-4bit-64g.safetensors")
    found = adopt(registry, old, base=base.id)
    view = registry.view(found.artifact.id)
    written = json.loads((view / "config.json").read_text())["quantization_config"]
    assert written["quant_method"] == "gptq"
    assert "model_name_or_path" not in written
    assert (view / "model.safetensors").is_file()
    assert "given the settings of quantize_config.json" in told(found.findings.established)
    subject = as_parent(registry, found.artifact)
    from stages.backends.evaluate.open_model import open_model

    assert open_model({"model": subject}, EvaluateConfig()).description.startswith("GPTQ")


def test_the_same_files_are_the_same_artifact(
    registry: Registry, base: Artifact, peft_adapter: Path, adapter: Adoption, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(peft_adapter, tmp_path / "another name")
    again = adopt(registry, elsewhere, base=base.id)
    assert again.artifact.id == adapter.artifact.id
    assert again.findings == adapter.findings


def test_a_base_that_the_files_name_exactly_is_found(
    registry: Registry, base: Artifact, peft_adapter: Path, tmp_path: Path
) -> None:
    reference = base.manifest.base
    assert reference is not None
    named = _changed(
        peft_adapter, tmp_path / "a", base_model_name_or_path="pico:0", revision=reference.revision
    )
    assert adopt(registry, named).base.id == base.id
    recorded = shutil.copytree(peft_adapter, tmp_path / "b")
    quant = {
        "method": "bnb",
        "requested": {"quant_type": "nf4", "double_quant": True, "compute_dtype": "bfloat16"},
    }
    record = {"base": {"id": "x", **reference.model_dump()}, "quant": quant}
    (recorded / "tuneline.json").write_text(json.dumps(record))
    found = adopt(registry, recorded)
    assert found.base.id == base.id
    assert "every digest equal" in told(found.findings.claimed)
    assert found.artifact.manifest.quant is not None
    assert found.artifact.manifest.quant.requested["double_quant"] is True


def test_a_base_that_is_not_known_has_to_be_given(
    registry: Registry, peft_adapter: Path, merged_model: Path, gguf_file: Path
) -> None:
    with pytest.raises(Usage, match=r"cannot be told from its files.*revision None.*--base") as caught:
        adopt(registry, peft_adapter)
    assert caught.value.exit_code == 3
    with pytest.raises(Usage, match="--kind base"):
        adopt(registry, merged_model)
    with pytest.raises(Usage, match="--base"):
        adopt(registry, gguf_file)


def test_files_that_name_another_base_are_refused(
    registry: Registry, base: Artifact, peft_adapter: Path, tmp_path: Path
) -> None:
    other = _changed(peft_adapter, tmp_path / "a", base_model_name_or_path="pico:0", revision="b" * 40)
    with pytest.raises(Incompatible, match=f"at revision {'b' * 40}"):
        adopt(registry, other, base=base.id)
    assert base.manifest.base is not None
    recorded = shutil.copytree(peft_adapter, tmp_path / "b")
    record = base.manifest.base.model_copy(update={"weights_digest": "1" * 64})
    (recorded / "tuneline.json").write_text(json.dumps({"base": record.model_dump()}))
    with pytest.raises(Incompatible, match="weights_digest"):
        adopt(registry, recorded, base=base.id)


def test_what_does_not_fit_the_base_is_refused(
    registry: Registry, base: Artifact, merged_model: Path, tmp_path: Path
) -> None:
    small = save_llama(tmp_path / "small")
    wrong = save_adapter(small, tmp_path / "wrong")
    count = len(registry.ls(limit=1000))
    with pytest.raises(Incompatible, match=r"targets: expected .*another size"):
        adopt(registry, wrong, base=base.id)
    with pytest.raises(Incompatible, match="tensors: expected the base model's tensors"):
        adopt(registry, small, base=base.id)
    renamed = shutil.copytree(merged_model, tmp_path / "renamed")
    _swap_two_tokens(renamed / "tokenizer.json")
    with pytest.raises(Incompatible, match="2 stand for other tokens"):
        adopt(registry, renamed, base=base.id)
    assert len(registry.ls(limit=1000)) == count
    assert not list((registry.home / "drafts").iterdir())


def test_another_chat_template_is_told_and_not_served(
    registry: Registry, base: Artifact, merged_model: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(merged_model, tmp_path / "other")
    (other / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    found = adopt(registry, other, base=base.id)
    assert "another than the base's" in told(found.findings.not_established)
    parents = {"base": base.manifest, "model": found.artifact.manifest}
    with pytest.raises(Incompatible, match="template in the file"):
        require_compatible("deploy", DeployConfig(engine="vllm"), parents)


def test_an_adapter_with_another_template_is_not_served_beside_its_base(
    registry: Registry, base: Artifact, peft_adapter: Path, tmp_path: Path
) -> None:
    """An engine would render chats by the base's template."""
    other = shutil.copytree(peft_adapter, tmp_path / "other")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(registry.view(base.id) / file, other / file)
    for state in ("ok", "refused"):
        if state == "refused":
            (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        found = adopt(registry, other, base=base.id).artifact.manifest
        for name in ("vllm", "llama.cpp"):
            answers = examine(pair(base.manifest, found, Use(limits(name))))
            assert [one.state for one in answers if one.name == "adapter reading"] == [state]
    with pytest.raises(Incompatible, match="adapter reading"):
        require_compatible("quantize", GgufConfig(type="F16"), {"base": base.manifest, "model": found})


def test_kinds_are_checked(registry: Registry, adapter: Adoption, peft_adapter: Path) -> None:
    with pytest.raises(Usage, match="is a PEFT adapter"):
        adopt(registry, peft_adapter, kind="merged", base="whatever")
    with pytest.raises(Usage, match="belongs to a base artifact"):
        adopt(registry, peft_adapter, base=adapter.artifact.id)


def test_nothing_is_left_after_a_refusal(
    registry: Registry, base: Artifact, peft_adapter: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(peft_adapter, tmp_path / "broken")
    with (broken / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x00\xc0\x7f")  # NaN
    with pytest.raises(InvalidInput, match="NaN"):
        adopt(registry, broken, base=base.id)
    assert not list((registry.home / "drafts").iterdir())


def test_the_contract_knows_imports(
    base: Artifact, adapter: Adoption, merged: Adoption, gptq: Adoption, gguf: Adoption
) -> None:
    for found, name in ((adapter, "vllm"), (merged, "vllm"), (gptq, "vllm"), (gguf, "llama.cpp")):
        answers = examine(pair(base.manifest, found.artifact.manifest, Use(limits(name), 512)))
        assert not [one for one in answers if one.state == "refused"], found.artifact.manifest.kind
    answers = examine(pair(base.manifest, adapter.artifact.manifest))
    assert {one.name for one in answers if one.state == "unknown"} == {"quant recipe"}


def test_lineage_leads_to_the_base(registry: Registry, base: Artifact, gguf: Adoption) -> None:
    assert [edge.relation for edge in registry.lineage(gguf.artifact.id)] == ["quantized", "finetune"]
    assert registry.lineage(gguf.artifact.id)[-1].parent == base.id


def test_each_can_be_measured(
    registry: Registry, base: Artifact, dataset: Parent, adapter: Adoption, merged: Adoption,
    gptq: Adoption, gguf: Adoption, tmp_path: Path,
) -> None:  # fmt: skip
    config = EvaluateConfig(tasks=(HeldoutTask(max_items=2, max_new_tokens=4),), context_length=128)
    below = {"base": as_parent(registry, base), "dataset": dataset}
    for number, found in enumerate((adapter, merged, gptq, gguf)):
        subject = as_parent(registry, found.artifact)
        roles = {"model": below["base"], "adapter": subject} if found is adapter else {"model": subject}
        require_compatible("evaluate", config, {**below, **roles})
        out = tmp_path / str(number)
        out.mkdir()
        facts = evaluate({**below, **roles}, config, out)
        assert facts.metrics["tasks"]["heldout"]["exact_match"]["n"] == 2


def test_an_imported_gguf_is_served(
    registry: Registry, base: Artifact, gguf: Adoption, tmp_path: Path
) -> None:
    parents = {"model": as_parent(registry, gguf.artifact), "base": as_parent(registry, base)}
    config = DeployConfig(context_length=256, max_new_tokens=8, ready_timeout=seconds(300))
    with pytest.raises(Incompatible, match="context length: expected at most 2048 tokens, found 4096"):
        deploy(parents, config.model_copy(update={"context_length": 4096}), tmp_path)
    assert not (tmp_path / "engine.log").exists(), "refused before anything was started"
    served = deploy(parents, config, tmp_path)
    stop(ProcessId(served.pid, served.pid_started), seconds(10))
    assert served.artifact_id == gguf.artifact.id


def test_an_imported_adapter_is_merged_by_reference_and_as_peft_does_it(
    registry: Registry, base: Artifact, adapter: Adoption, merged_model: Path, home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch
    from safetensors.torch import load_file

    monkeypatch.setenv("TUNELINE_HOME", str(home))
    out = tmp_path / "out"
    parents = {"base": Path(base.id[:12]), "adapter": Path(adapter.artifact.id[:12])}
    run_plain("merge", parents, ["base=16bit"], out)
    ours, theirs = load_file(out / "model.safetensors"), load_file(merged_model / "model.safetensors")
    assert set(ours) == set(theirs)
    assert all(torch.allclose(ours[name].float(), theirs[name].float(), atol=2e-3) for name in ours)


def test_the_command_line(
    registry: Registry, base: Artifact, adapter: Adoption, peft_adapter: Path, home: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TUNELINE_HOME", str(home))
    command = ["artifacts", "import", str(peft_adapter), "--base", base.id[:12], "--name", "support"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["id"], document["name"]) == (adapter.artifact.id, "support@1")
    assert main(command) == 0
    assert "claimed, not verified: base: pico:0" in capsys.readouterr().out
    assert main(["artifacts", "import", str(peft_adapter)]) == 3
    said = capsys.readouterr().err
    assert "--base" in said
    assert "Traceback" not in said

    assert main(["artifacts", "compat", base.id[:12], "support@1", "--engine", "vllm", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "unknown"
    assert {check["state"] for check in document["checks"]} == {"ok", "unknown"}
    assert main(["artifacts", "compat", base.id[:12], "support@1", "--strict"]) == 3
    capsys.readouterr()
    assert (
        main(["artifacts", "compat", base.id[:12], "support@1", "--engine", "vllm", "--max-rank", "1"]) == 3
    )
    assert "refused  rank: expected at most 1, found 4" in capsys.readouterr().out


def _changed(adapter: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def _swap_two_tokens(file: Path) -> None:
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = (next(t for t, i in vocabulary.items() if i == number) for number in (1000, 1001))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(tokenizer))
