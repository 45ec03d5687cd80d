"""A merge by several threads: the same bytes always, and nothing made twice after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.backends import unfinished
from stages.backends.merge import compute, stream
from stages.backends.merge.merge import merge_adapter
from stages.backends.merge.plan import LowRank, Output
from stages.backends.safetensors import TensorFiles, TensorSpec, write_file
from stages.errors import InvalidInput
from tests.seconds import seconds
from tests.stages.backends.merge.lora_models import LINEAR, save_adapter, save_llama, with_adapter
from tests.stages.backends.merge.merging import PEFT_NOTICES

pytestmark = PEFT_NOTICES
SHARD = 60_000


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    base = save_llama(tmp_path / "base", shard_size="40KB")
    return base, save_adapter(base, tmp_path / "adapter")


def merged(model: tuple[Path, Path], out: Path, dtype: Any = "float16") -> dict[str, bytes]:
    """The files of a merge into `out`, in several shards."""
    out.mkdir(exist_ok=True)
    merge_adapter(*model, out, dtype, None, SHARD)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_threads(
    threads: int, model: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged(model, tmp_path / "one")
    monkeypatch.setattr(stream, "FEWEST", threads)
    monkeypatch.setattr(stream, "MOST", threads)
    monkeypatch.setattr(compute, "PIECE", 1 << 10)
    before = torch.get_num_threads()
    assert merged(model, tmp_path / "other") == expected
    assert torch.get_num_threads() == before
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"target_modules": [*LINEAR, "lm_head"]}])
def test_pieces_are_bitwise_equal_to_peft(
    dtype: Any, lora: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "PIECE", 1 << 10)
    base = save_llama(tmp_path / "base", dtype=getattr(torch, dtype))
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    (tmp_path / "out").mkdir()
    merge_adapter(base, adapter, tmp_path / "out", dtype, None, 1_000_000_000)
    theirs = with_adapter(base, adapter, getattr(torch, dtype)).merge_and_unload().state_dict()
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("rank", [4, 16, 64])
def test_rows_computed_apart_equal_the_whole_product(rank: int, tmp_path: Path) -> None:
    """Of shapes whose sides are multiples of 8; that of others is computed whole."""
    generator = torch.Generator().manual_seed(rank)
    before = torch.get_num_threads()
    for number in range(12):
        outputs, inputs = (8 * int(torch.randint(1, 200, (), generator=generator)) for _ in range(2))
        tensors = {
            "w": torch.randn(outputs, inputs, generator=generator).half(),
            "a": torch.randn(rank, inputs, generator=generator),
            "b": torch.randn(outputs, rank, generator=generator),
        }
        file = tmp_path / f"{number}.safetensors"
        dtypes = {"w": "F16", "a": "F32", "b": "F32"}
        specs = [TensorSpec(name, dtypes[name], tuple(tensor.shape)) for name, tensor in tensors.items()]
        write_file(file, specs, tensors.__getitem__)
        files, term = TensorFiles([file]), LowRank("a", "b", 0.3, transposed=False, magnitude=None)
        output = Output(specs[0], "w", low_rank=term)
        expected = (tensors["b"] @ tensors["a"]).mul_(0.3).add_(tensors["w"]).half()
        torch.set_num_threads(1)
        try:
            pieces = compute.MergedTensors(files, files, None, 1).pieces(output)
            ours = torch.cat([piece.clone() for piece, _ in pieces]).view(outputs, inputs)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(ours, expected), (outputs, inputs)


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from stages.backends.merge import compute, unfinished
from stages.backends.merge.merge import merge_adapter
begin, finish = unfinished.UnfinishedMerge.begin, unfinished.UnfinishedMerge.finish
pieces, first, finished = compute.MergedTensors.pieces, set(), threading.Event()

def begin_noted(merge, file):
    first.update(first or {spec.name for spec in file.specs})
    return begin(merge, file)

def cut_off(tensors, output):
    for piece, reach in pieces(tensors, output):
        if output.spec.name in first:
            yield piece, reach
        else:
            finished.wait()
            yield piece[: len(piece) // 2], reach
            os.kill(os.getpid(), signal.SIGKILL)

def finish_noted(merge, file, largest):
    finish(merge, file, largest)
    finished.set()

unfinished.UnfinishedMerge.begin, unfinished.UnfinishedMerge.finish = begin_noted, finish_noted
compute.MergedTensors.pieces = cut_off
base, adapter, out = map(Path, sys.argv[1:4])
merge_adapter(base, adapter, out, "float16", None, int(sys.argv[4]))
"""


def killed(model: tuple[Path, Path], out: Path) -> set[str]:
    """Merge into `out` in a process that is killed with one file finished and a later tensor half written.

    The names of the finished files.
    """
    out.mkdir()
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, *map(str, (*model, out, SHARD))]
    root = Path(__file__).parents[4]
    done = subprocess.run(arguments, cwd=root, timeout=seconds(60), check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return {file.name for file in (out / "checkpoints" / "merge").glob("*.safetensors")}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that this process computes from now on."""
    names: list[str] = []
    pieces = compute.MergedTensors.pieces

    def counted(tensors: compute.MergedTensors, output: Output) -> Iterator[compute.Piece]:
        names.append(output.spec.name)
        return pieces(tensors, output)

    monkeypatch.setattr(compute.MergedTensors, "pieces", counted)
    return names


def test_a_killed_merge_goes_on_with_the_files_that_are_not_finished(
    model: tuple[Path, Path], tmp_path: Path, computed: list[str]
) -> None:
    expected = merged(model, tmp_path / "whole")
    total = len(computed)
    computed.clear()
    finished = killed(model, tmp_path / "out")
    assert finished == {min(name for name in expected if name.endswith(".safetensors"))}
    assert list((tmp_path / "out" / "checkpoints" / "merge").glob("*.part"))
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert merged(model, tmp_path / "out") == expected
    index = json.loads(expected["model.safetensors.index.json"])["weight_map"]
    assert sorted(computed) == sorted(name for name, file in index.items() if file not in finished)
    assert 0 < len(computed) < total
    assert not (tmp_path / "out" / "checkpoints").exists()


def other_boot(model: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "boot").write_text("another")
    monkeypatch.setattr(unfinished, "BOOT", out / "boot")


def other_adapter(model: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(model[1] / "adapter_model.safetensors", ns=(0, 0))


def cut(model: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (out / "checkpoints" / "merge").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])


def no_figures(model: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (out / "checkpoints" / "merge").glob("*.json"):
        file.unlink()


@pytest.mark.parametrize("change", [other_boot, other_adapter, cut, no_figures])
def test_finished_files_that_may_be_others_are_made_again(
    change: Any,
    model: tuple[Path, Path],
    tmp_path: Path,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = merged(model, tmp_path / "whole")
    total = len(computed)
    computed.clear()
    assert killed(model, tmp_path / "out")
    change(model, tmp_path / "out", monkeypatch)
    ours = merged(model, tmp_path / "out")
    ours.pop("boot", None)
    assert ours == expected
    assert len(computed) == total


def test_of_two_damaged_tensors_the_first_is_named(model: tuple[Path, Path], tmp_path: Path) -> None:
    files = TensorFiles(sorted(model[0].glob("*.safetensors")))
    damaged = list(files)[3:5]
    for shard in model[0].glob("*.safetensors"):
        names = list(TensorFiles([shard]))
        tensors = {name: files.read(name) for name in names}
        for name in set(damaged) & set(names):
            tensors[name].view(-1)[-1] = float("nan")
        write_file(shard, [files.spec(name) for name in names], tensors.__getitem__)
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        out.mkdir()
        with pytest.raises(InvalidInput, match=rf"tensor {damaged[0]} would hold NaN"):
            merge_adapter(*model, out, "float16", None, SHARD)
        assert not list(out.iterdir())
