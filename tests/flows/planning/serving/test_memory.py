"""What the engines of a `serve.yaml` need: right counts from metadata, and plain words when short."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.commands.serving import serve
from flows.planning.machine import Machine
from flows.planning.serving import memory
from flows.planning.serving.memory import EngineEstimate, estimate_engines, shortfalls
from registry import Registry, Waiver
from serving.gateway.config import EngineSection
from serving.llama_cpp import model as llama_model
from tests.serving.populated_registry import PopulatedRegistry, kept_registry

WAIVER = Waiver("tests", "tests")
ROOM = Machine(memory_available=1 << 40, disk_free=0, cpu_count=2)
LAYERS, KV_WIDTH = 2, 2 * 64


@pytest.fixture(scope="module")
def populated(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> PopulatedRegistry:
    return kept_registry(pytestconfig.rootpath, tmp_path_factory.mktemp("populated") / "home", 3)


@pytest.fixture
def registry(populated: PopulatedRegistry) -> Iterator[Registry]:
    with Registry.open(populated.home) as opened:
        yield opened


def one(registry: Registry, machine: Machine = ROOM, **section: Any) -> EngineEstimate:
    given = {"engine": "llama.cpp", "model": "pico-base@1", "adapters": 4, "context_length": 300} | section
    (found,) = estimate_engines(registry, [EngineSection.model_validate(given)], machine)
    return found


def test_the_batch_is_the_engines() -> None:
    assert memory.BATCH_TOKENS == llama_model.BATCH_TOKENS
    assert memory.STATES_TOKENS == llama_model.STATES_TOKENS


def test_keys_values_replicas_and_adapters_count(registry: Registry, populated: PopulatedRegistry) -> None:
    plain = one(registry, parallel=1)
    assert plain.memory_bytes is not None
    weights = registry.get(populated.gguf).manifest.files["model.gguf"].size
    assert plain.memory_bytes > weights + 512 * 4 * 49152
    more = one(registry, parallel=3)
    assert more.memory_bytes == plain.memory_bytes + 2 * 512 * LAYERS * KV_WIDTH * 2 * 2, "300 cells are 512"
    assert one(registry, parallel=1, replicas=2).memory_bytes == 2 * plain.memory_bytes
    registry.channels.move("team/one", populated.adapters[0].gguf, 0, waiver=WAIVER)
    adapter = registry.get(populated.adapters[0].gguf).manifest.files["model.gguf"].size
    known = [one(registry, adapters=count).memory_bytes or 0 for count in (4, 5)]
    assert known[1] - known[0] == adapter


def test_a_merged_model_has_no_slots_and_is_there_twice_while_it_moves(
    registry: Registry, populated: PopulatedRegistry
) -> None:
    registry.channels.move("team/whole", populated.adapters[0].merged, 0, waiver=WAIVER)
    found = one(registry, model="team/whole")
    assert "0 B for 0 adapters; twice while team/whole moves" in found.note
    assert found.memory_bytes == one(registry, model="team/whole", adapters=64).memory_bytes


def test_vllm_counts_its_cache_and_slots_and_on_a_gpu_only_that(
    registry: Registry, populated: PopulatedRegistry
) -> None:
    ranks = [one(registry, engine="vllm", model=populated.base, max_rank=rank) for rank in (8, 16)]
    assert [found.device for found in ranks] == ["cpu", "cpu"]
    cpu = [found.memory_bytes or 0 for found in ranks]
    assert cpu[1] > cpu[0] > 1 << 30
    gpu = Machine(1 << 40, 0, 2, (("a GPU", 24 << 30),))
    there = one(registry, gpu, engine="vllm", model=populated.base)
    assert (there.device, (there.memory_bytes or 0) < 1 << 30) == ("gpu", True)
    assert not shortfalls([there], gpu)
    (said,) = shortfalls([there], Machine(1 << 40, 0, 2, (("small", 1 << 20),)))
    assert "of GPU memory, of which it takes 90% of 1.05 MB" in said


def test_a_machine_that_is_too_small_is_told_before_anything_starts(
    populated: PopulatedRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", str(populated.home))
    monkeypatch.setattr(serve, "machine", lambda _: Machine(300_000_000, 0, 2))
    file = tmp_path / "serve.yaml"
    file.write_text("engines: [{engine: llama.cpp, model: pico-base@1, replicas: 3}]\n")
    assert cli.main(["serve", str(file)]) == 3
    said = capsys.readouterr().err
    assert "the engines need about" in said
    assert "this machine has 300 MB free" in said
    assert "--ignore-memory" in said
    assert cli.main(["serve", str(file), "--check", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (len(told["estimates"]), len(told["shortfalls"]), told["unknown"]) == (1, 1, None)
    monkeypatch.setattr(serve, "machine", lambda _: ROOM)
    assert cli.main(["serve", str(file), "--check"]) == 0
    assert "llama.cpp" in capsys.readouterr().out
    file.write_text("engines: [{engine: llama.cpp, model: absent@1}]\n")
    assert cli.main(["serve", str(file), "--check"]) == 0
    assert "is not known here" in capsys.readouterr().out


def test_the_gateway_loads_no_model_library_for_it(populated: PopulatedRegistry, tmp_path: Path) -> None:
    code = (
        "import sys; from flows import cli; code = cli.main(sys.argv[1:])\n"
        "heavy = {'torch', 'llama_cpp', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    file = tmp_path / "serve.yaml"
    file.write_text("engines: [{engine: llama.cpp, model: pico-base@1}]\n")
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(file), "--check"],
        env={"TUNELINE_HOME": str(populated.home), "PATH": ""}, capture_output=True, text=True,
        cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
