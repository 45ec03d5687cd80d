"""A quantization that is killed goes on after its last finished layer, to the same bytes."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.backends import unfinished as any_unfinished
from stages.backends.gptq import keep_layers, quantize
from stages.backends.gptq.effective_config import EffectiveGptq
from stages.backends.gptq.load import library
from stages.backends.gptq.state import put_together, taken_apart
from stages.backends.gptq.unfinished import UnfinishedLayers
from stages.quantization.gptq import GptqConfig
from tests.reliability.kills import Job, attempt, files_of, quantization
from tests.seconds import seconds

LAYERS = 3


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return quantization(tmp_path_factory.mktemp("inputs"), LAYERS)


def quantized(job: Job, out: Path, **changes: Any) -> EffectiveGptq:
    """In this process."""
    config = job.config.model_copy(update=changes)
    assert isinstance(config, GptqConfig)
    out.mkdir(exist_ok=True)
    return quantize.quantize_gptq(job.parents["model"].path, job.parents["dataset"].path, config, out)


@pytest.fixture(scope="module")
def whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[EffectiveGptq, dict[str, bytes]]:
    """An unbroken quantization: what is recorded of it, and its files."""
    out = tmp_path_factory.mktemp("whole")
    return quantized(job, out), files_of(out)


class Killed(BaseException):
    """In place of SIGKILL, which would end this process."""


@pytest.fixture
def broken(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Quantize until so many layers are kept; returns the folder with what is left."""

    def until(count: int) -> Path:
        keep = UnfinishedLayers.keep

        def killed(unfinished: UnfinishedLayers, kept: int, modules: Any, state: Any) -> None:
            keep(unfinished, kept, modules, state)
            if kept == count:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(UnfinishedLayers, "keep", killed)
            with pytest.raises(Killed):
                quantized(job, tmp_path / "out")
        return tmp_path / "out"

    return until


@pytest.fixture
def layers(caplog: pytest.LogCaptureFixture) -> Callable[[], list[int]]:
    """The layers that this process quantized since the last call."""
    caplog.set_level(logging.INFO, "tuneline.stage")

    def since() -> list[int]:
        done = [record.progress["done"] for record in caplog.records if hasattr(record, "progress")]
        caplog.clear()
        return done

    return since


def test_killed_processes_leave_their_layers_to_the_next(
    job: Job, whole: tuple[EffectiveGptq, dict[str, bytes]], tmp_path: Path, layers: Callable[[], list[int]]
) -> None:
    """Twice at random moments, once right after a layer: then it is certain that something is kept."""
    out, draw = tmp_path / "out", random.Random()
    out.mkdir()
    process = job.start(out)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line == "2\n":
                break
        process.kill()
    assert process.wait(timeout=seconds(20)) == -9
    kept = list((out / "checkpoints" / "gptq").glob("layers-*.json"))
    assert kept, "layer 1 was packed before layer 2 was begun"
    attempt(job, out, kill_after=draw.uniform(0, 1))
    if (out / "checkpoints").exists():
        quantized(job, out)
        assert 1 not in layers()
    assert files_of(out) == whole[1]


@pytest.mark.parametrize("count", [1, LAYERS])
def test_only_what_is_not_finished_is_quantized(
    count: int,
    job: Job,
    whole: tuple[EffectiveGptq, dict[str, bytes]],
    broken: Callable[[int], Path],
    layers: Callable[[], list[int]],
) -> None:
    out = broken(count)
    layers()
    assert quantized(job, out) == whole[0]
    assert layers() == list(range(count + 1, LAYERS + 1))
    assert files_of(out) == whole[1]


def other_boot(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder.parents[2] / "boot").write_text("another")
    patch.setattr(any_unfinished, "BOOT", folder.parents[2] / "boot")


def other_seed(folder: Path, patch: pytest.MonkeyPatch) -> None:
    pass  # in the test


def no_record(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "layers-1.json").rename(folder / "layers-1.json.part")


def cut_record(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "layers-1.json").write_bytes((folder / "layers-1.json").read_bytes()[:-1])


def cut_state(folder: Path, patch: pytest.MonkeyPatch) -> None:
    file = folder / "layers-1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def no_module(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "offload" / "model.layers.0.mlp.up_proj" / "module.safetensors").unlink()


def not_understood(folder: Path, patch: pytest.MonkeyPatch) -> None:
    record = json.loads((folder / "layers-1.json").read_text())
    text = json.dumps(record).replace('"in_features", 64', '"in_features", 32')
    assert json.loads(text) != record
    (folder / "layers-1.json").write_text(text)


@pytest.mark.parametrize(
    "change", [other_boot, other_seed, no_record, cut_record, cut_state, no_module, not_understood]
)
def test_layers_that_may_be_others_are_quantized_again(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    job: Job,
    whole: tuple[EffectiveGptq, dict[str, bytes]],
    broken: Callable[[int], Path],
    layers: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = broken(1)
    change(out / "checkpoints" / "gptq", monkeypatch)
    layers()
    made = quantized(job, out, **({"seed": 1, "calibration_rows": 20} if change is other_seed else {}))
    assert layers() == [1, 2, 3]
    assert (files_of(out) == whole[1]) == (made == whole[0]) == (change is not other_seed)


def test_a_state_that_cannot_be_kept_ends_nothing(
    job: Job,
    whole: tuple[EffectiveGptq, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused(unfinished: UnfinishedLayers, count: int, modules: Any, state: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(UnfinishedLayers, "keep", refused)
    quantized(job, tmp_path / "out")
    assert files_of(tmp_path / "out") == whole[1]
    said = [record.message for record in caplog.records if record.name == "tuneline.quantize"]
    assert [text for text in said if "not kept" in text] == [
        "layers are not kept, a killed quantization would begin anew: no space left on device"
    ]


def test_the_library_has_what_this_rests_on() -> None:
    """Where one of these is missing in a newer version, `keep_layers` has to be written anew."""
    library()
    from gptqmodel.looper.gptq_checkpoint import QuantizationCheckpointAdapter
    from gptqmodel.looper.input_cache import InputCache
    from gptqmodel.looper.module_looper import ModuleLooper

    assert "layer_inputs" in {field.name for field in dataclasses.fields(InputCache)}
    before = set(QuantizationCheckpointAdapter.bind.__code__.co_names)
    assert before >= {
        "execution",
        "model",
        "processors",
        "processor",
        "shared_state",
        "offload",
        "_artifacts",
    }
    with keep_layers.kept_by(keep_layers.LayerKeeper.__new__(keep_layers.LayerKeeper)):
        from gptqmodel.looper import module_looper

        assert module_looper.ModuleLooper is not ModuleLooper
    assert module_looper.ModuleLooper is ModuleLooper


def test_a_state_comes_back_as_it_was() -> None:
    shared = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    state = {
        "plain": [None, True, 3, 0.1, float("inf"), "text", ["tensor", 0]],
        1: (shared, shared.T, torch.ones(4).expand(3, 4)),
        "device": torch.device("cpu"),
        "again": shared,
    }
    tensors: list[torch.Tensor] = []
    document = json.loads(json.dumps(taken_apart(state, tensors)))
    assert len(tensors) == 3
    back = put_together(document, lambda number: tensors[number].clone())
    assert list(back) == list(state)
    assert back["plain"] == state["plain"]
    assert back["device"] == torch.device("cpu")
    assert back["again"] is back[1][0]
    assert all(torch.equal(new, old) for new, old in zip(back[1], state[1], strict=True))
    with pytest.raises(TypeError, match="object cannot be kept"):
        taken_apart({"odd": [object()]}, [])
