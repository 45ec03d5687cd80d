"""A model's directory: each of its files is read once, and a file that is cut is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.errors import InvalidInput
from stages.formats.model_directory import ModelDirectory, TensorHeader, read_header


def safetensors(header: dict[str, object], data: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(safetensors(HEADER, bytes(16)))
    return tmp_path


def test_each_file_is_read_once(folder: Path) -> None:
    model = ModelDirectory(folder)
    assert model.config == {"model_type": "llama"}
    assert model.shapes == {"a": ("F16", (2, 3)), "b": ("F32", (1,))}
    for file in list(folder.iterdir()):
        file.unlink()
    assert (model.config["model_type"], model.parameters, model.nbytes) == ("llama", 7, 16)
    assert model.dtypes == ["F16", "F32"]


def test_a_header_says_where_its_tensors_begin(folder: Path) -> None:
    file = folder / "model.safetensors"
    start = file.stat().st_size - 16
    assert read_header(file) == {
        "a": TensorHeader("F16", (2, 3), 12, start),
        "b": TensorHeader("F32", (1,), 4, start + 12),
    }


@pytest.mark.parametrize(
    ("kept", "message"), [(4, "not a complete safetensors file"), (-1, "cut short before the tensor 'b'")]
)
def test_a_file_that_is_cut(folder: Path, kept: int, message: str) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InvalidInput, match=message):
        read_header(file)


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"holds no config\.json"):
        _ = ModelDirectory(tmp_path).config
