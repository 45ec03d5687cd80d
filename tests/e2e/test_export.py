"""What an export says of itself, done: each kind is loaded with the very code of its model card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from registry.artifacts import Parentage, memo_key
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
        return draft.commit(
            stage="quantize", stage_version=1, config=config, toolchain={}, facts_kind=facts.kind,
            relations=[Parentage(relation=r, id=i) for r, i in parents.items()],  # type: ignore[arg-type]
            base=facts.base, metrics=facts.metrics,
            quant=facts.quant.model_copy(update={"calibration_dataset": ids["dataset"]}),
            execution={"seconds": 1.0, "peak_bytes": None, "started": "2026-01-02T03:04:05+00:00"},
        ).id  # fmt: skip


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


LOAD = """
import json, re, sys
from pathlib import Path
from serving.llama_amx import avoid_amx

avoid_amx()  # some builds of llama.cpp die on some machines
folder = Path(sys.argv[1])
for kind in sys.argv[2:]:
    card = (folder / kind / "README.md").read_text("utf-8")
    code = re.findall(r"^```python\\n(.*?)^```$", card, re.S | re.M)[0]
    code = code.replace("path/to/this/directory", str(folder / kind))
    code = code.replace("path/to/the/base", str(folder / "base"))
    print(f"loading {kind}", flush=True)
    names = {"print": lambda answer: print("ANSWER " + json.dumps([kind, answer]), flush=True)}
    exec(compile(code, kind, "exec"), names)
    print("CLASS " + json.dumps([kind, type(names["model"]).__name__]), flush=True)
"""


def test_the_code_of_each_card_loads_it_and_gets_an_answer(exported: Path) -> None:
    kinds = ("adapter", "merged", "gguf", "gptq")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(exported), *kinds],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=seconds(400),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    said = dict(json.loads(line) for line in re.findall("^ANSWER (.*)$", done.stdout, re.MULTILINE))
    assert said.keys() == set(kinds)
    assert all(answer.strip() for answer in said.values()), said
    classes = dict(json.loads(line) for line in re.findall("^CLASS (.*)$", done.stdout, re.MULTILINE))
    assert classes["adapter"] == "PeftModelForCausalLM"
    assert classes["merged"] == "LlamaForCausalLM"
    assert classes["gguf"] == "Llama"
    assert "GPTQ" in classes["gptq"] or "QModel" in classes["gptq"], classes


def test_an_export_can_be_imported_again(pico: Pico, ids: dict[str, str], exported: Path) -> None:
    tuneline = pico[0]
    adopted = tuneline.json("artifacts", "import", str(exported / "adapter"), "--base", ids["base"])
    assert adopted["exit_code"] == 0, adopted
    before, after = (tuneline.json("artifacts", "show", i) for i in (ids["adapter"], adopted["id"]))
    assert after["files"] == {name: before["files"][name] for name in after["files"]}
    assert after["files"].keys() >= {"adapter_model.safetensors", "adapter_config.json"}
    assert after["base"] == before["base"]
