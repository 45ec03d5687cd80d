"""What an export says of itself, done: each kind is loaded with the very code of its model card."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from registry.artifacts import Parentage, StageResult, memo_key
from registry.catalog import ResourceUse
from stages.contract import Facts
from tests.e2e.conftest import Tuneline
from tests.seconds import seconds

Pico = tuple[Tuneline, dict[str, Any]]
STAGES = {"base": "resolve", "dataset": "prepare", "adapter": "train", "merged": "merge", "gguf": "quantize"}


@pytest.fixture(scope="module")
def ids(pico: Pico) -> dict[str, str]:
    rows = {row["stage"]: row["artifact_id"] for row in pico[1]["stages"]}
    return {kind: rows[stage] for kind, stage in STAGES.items()}


@pytest.fixture(scope="module")
def exported(pico: Pico, ids: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of every kind below one directory; the GPTQ model is made from two of them."""
    tuneline, folder = pico[0], tmp_path_factory.mktemp("exports")
    for kind, id_ in ids.items():
        assert tuneline.json("artifacts", "export", id_, str(folder / kind))["exit_code"] == 0
    gptq = quantized(tuneline, folder, ids)
    assert tuneline.json("artifacts", "export", gptq, str(folder / "gptq"))["exit_code"] == 0
    return folder


def quantized(tuneline: Tuneline, folder: Path, ids: dict[str, str]) -> str:
    """Quantize the exported merged model with the plain command, and publish what comes out."""
    config = {"method": "gptq", "group_size": 32, "calibration_rows": 8}
    settings = (word for key, value in config.items() for word in ("--set", f"{key}={value}"))
    made = tuneline.json(
        "quantize", "--model", str(folder / "merged"), "--dataset", str(folder / "dataset"),
        "--out", str(folder / "made"), *settings,
    )  # fmt: skip
    facts = Facts.model_validate(made["facts"])
    assert facts.quant is not None
    assert facts.quant.merge_base == "16bit", "what the plain command knows, it read from the export"
    parents = {"quantized": ids["merged"], "calibrated_on": ids["dataset"]}
    key = memo_key("quantize", 1, config, parents, {})
    with Registry.open(tuneline.home) as registry, registry.draft(key, "quantize") as draft:
        for path in (folder / "made").iterdir():
            if path.name != "tuneline-facts.json":
                (draft.path / path.name).write_bytes(path.read_bytes())
        result = StageResult(
            kind=facts.kind,
            stage="quantize",
            stage_version=1,
            config=config,
            parents=tuple(Parentage(relation=r, id=i) for r, i in parents.items()),  # type: ignore[arg-type]
            base=facts.base,
            quant=facts.quant.model_copy(update={"calibration_dataset": ids["dataset"]}),
            metrics=facts.metrics,
        )
        return draft.commit(result, ResourceUse(datetime(2026, 1, 2, tzinfo=UTC), 1.0)).id


def test_every_export_is_verified_where_there_is_no_registry(pico: Pico, exported: Path) -> None:
    public = pico[0].home / "keys/signing.pub.pem"
    stranger = Tuneline(exported / "nobody" / "home")
    stranger.home.parent.mkdir()
    for kind in (*STAGES, "gptq"):
        found = stranger.json("artifacts", "verify", str(exported / kind), "--public-key", str(public))
        assert (found["exit_code"], found["problems"], found["not_proved"]) == (0, [], []), kind
    assert not stranger.home.exists()
    decisions = json.loads((exported / "gguf/gate-decisions.json").read_text())
    assert "pass" in {one["verdict"] for one in decisions}
    assert all(one["signature"] for one in decisions)


RUN = """
import json, os, sys
from serving.llama_cpp.amx_workaround import avoid_amx

avoid_amx()  # some builds of llama.cpp die on some machines
import peft, transformers
for line in sys.stdin:
    if child := os.fork():
        print("STATUS", os.waitpid(child, 0)[1], flush=True)
        continue
    folder, code = json.loads(line)
    os.chdir(folder)
    names = {"print": lambda answer: print("ANSWER " + json.dumps(answer), flush=True)}
    exec(compile(code, "the card", "exec"), names)
    print("CLASS " + json.dumps(type(names["model"]).__name__), flush=True)
    break
"""
"""Each snippet runs in a fork: what most of them import, which takes longest, is imported once."""
Run = Callable[[Path, str], str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a snippet in a folder, without a network; returns what it said."""
    folder = tmp_path_factory.mktemp("cards")
    log = folder / "errors"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "nothing-cached"),
                 "PYTHONPATH": str(Path(__file__).parents[2]), "GPTQMODEL_CPU_WORKERS": "2"},
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip

    def snippet(where: Path, code: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([str(where), code]) + "\n")
        process.stdin.flush()
        said = []
        for line in process.stdout:
            if line.startswith("STATUS "):
                assert line == "STATUS 0\n", code + log.read_text()[-3000:]
                return "".join(said)
            said.append(line)
        raise AssertionError(log.read_text()[-3000:])

    yield snippet
    process.communicate(timeout=seconds(60))
    assert process.returncode == 0


def run_the_card(run: Run, export: Path, folder: Path, base: Path | None = None) -> str:
    """Run each Python snippet of an export's card where nothing is but the export (and its base). Returns the
    name of the class that the last one loaded."""
    shutil.copytree(export, folder / "export", copy_function=os.link)
    if base is not None:
        shutil.copytree(base, folder / "base", copy_function=os.link)
    card = (folder / "export/README.md").read_text("utf-8")
    found = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    assert found
    loaded = ""
    for code in found:
        assert ("path/to/the/base" in code) == (base is not None), code
        code = code.replace("path/to/this/directory", "export").replace("path/to/the/base", "base")
        said = run(folder, code)
        (answer,) = re.findall("^ANSWER (.*)$", said, re.MULTILINE)
        assert json.loads(answer).strip()
        loaded = json.loads(re.findall("^CLASS (.*)$", said, re.MULTILINE)[0])
    return loaded


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("base", "LlamaForCausalLM"),
        ("adapter", "PeftModelForCausalLM"),
        ("merged", "LlamaForCausalLM"),
        ("gguf", "Llama"),
        ("gptq", "GPTQ|QModel"),
    ],
)
def test_the_code_of_each_card_needs_only_the_export(
    exported: Path, run: Run, tmp_path: Path, kind: str, classes: str
) -> None:
    base = exported / "base" if kind == "adapter" else None
    assert re.search(classes, run_the_card(run, exported / kind, tmp_path, base))


def test_the_card_of_an_adapter_that_came_without_a_tokenizer(
    pico: Pico, ids: dict[str, str], exported: Path, run: Run, tmp_path: Path
) -> None:
    tuneline, bare = pico[0], tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(exported / "adapter" / name, bare / name)
    adopted = tuneline.json("artifacts", "import", str(bare), "--base", ids["base"])
    assert adopted["exit_code"] == 0, adopted
    assert tuneline.json("artifacts", "export", adopted["id"], str(tmp_path / "again"))["exit_code"] == 0
    assert not (tmp_path / "again/tokenizer.json").exists()
    alone = tmp_path / "alone"
    alone.mkdir()
    assert run_the_card(run, tmp_path / "again", alone, exported / "base") == "PeftModelForCausalLM"


def test_an_export_can_be_imported_again(pico: Pico, ids: dict[str, str], exported: Path) -> None:
    tuneline = pico[0]
    adopted = tuneline.json("artifacts", "import", str(exported / "adapter"), "--base", ids["base"])
    assert adopted["exit_code"] == 0, adopted
    before, after = (tuneline.json("artifacts", "show", i) for i in (ids["adapter"], adopted["id"]))
    assert after["files"] == {name: before["files"][name] for name in after["files"]}
    assert after["files"].keys() >= {"adapter_model.safetensors", "adapter_config.json"}
    assert after["base"] == before["base"]
