"""The writer of safetensors files: what it wrote reads back identical, here and in the library."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from stages.backends import safetensors as files

TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(
        st.sampled_from(sorted(files.DTYPES.values(), key=str)),
        st.lists(st.integers(0, 5), max_size=3),
        st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(described=TENSORS, shard_size=st.integers(1, 400))
def test_written_files_read_back_identical(described: Any, shard_size: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tensors = {}
    for name, (dtype, shape, seed) in described.items():
        raw = torch.randint(
            0, 2 if dtype == torch.bool else 120, shape, generator=torch.Generator().manual_seed(seed)
        )
        tensors[name] = raw.to(dtype)
    specs = [files.TensorSpec(n, files.CODES[t.dtype], tuple(t.shape)) for n, t in tensors.items()]
    written = files.write_model(folder, specs, shard_size, tensors.__getitem__)
    library = {name: tensor for file in written for name, tensor in load_file(folder / file).items()}
    ours = files.model_files(folder)
    assert library.keys() == tensors.keys() == set(ours)
    for name, tensor in tensors.items():
        for read in (library[name], ours.read(name)):
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)


def test_writer_refuses_what_was_not_announced(tmp_path: Path) -> None:
    spec = files.TensorSpec("w", "F16", (2, 3))
    with pytest.raises(ValueError, match="announced F16"):
        files.write_file(
            tmp_path / "x.safetensors", [spec], lambda name: torch.zeros(3, 2, dtype=torch.float16)
        )
