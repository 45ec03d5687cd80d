"""The installer of llama.cpp's converter: it unpacks what is wanted, once, or leaves nothing."""

from __future__ import annotations

import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest

from stages.errors import MissingPackage, StageError
from stages.formats import converter_source


def _sdist(folder: Path, names: list[str]) -> Path:
    archive = folder / "llama_cpp_python-9.9.tar.gz"
    content = folder / "content"
    content.write_text("x")
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(content, f"llama_cpp_python-9.9/{name}")
    return archive


SDIST = [
    "vendor/llama.cpp/convert_hf_to_gguf.py",
    "vendor/llama.cpp/convert_lora_to_gguf.py",
    "vendor/llama.cpp/conversion/base.py",
    "vendor/llama.cpp/gguf-py/gguf/__init__.py",
    "vendor/llama.cpp/models/templates/a.jinja",
    "vendor/llama.cpp/LICENSE",
    "vendor/llama.cpp/src/llama.cpp",
    "vendor/llama.cpp/conversion/../../../evil.py",
    ".git/modules/vendor/llama.cpp/HEAD",
]


def test_installer_unpacks_only_the_converter_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []

    def download(version: str, folder: Path) -> Path:
        downloads.append(version)
        return _sdist(folder, SDIST)

    home = tmp_path / "share" / "llama.cpp"
    home.mkdir(parents=True)
    (home / "stale.py").write_text("of another version")
    monkeypatch.setattr(converter_source, "home", lambda: home)
    monkeypatch.setattr(converter_source, "_download", download)
    first = converter_source.install()
    files = {str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()}
    assert files == {name.removeprefix("vendor/llama.cpp/") for name in SDIST[:6]} | {"source.json"}
    assert json.loads((home / "source.json").read_text()) == asdict(first)
    assert (first.commit, len(first.sdist_sha256)) == ("x", 64)
    assert converter_source.install() == first == converter_source.find()
    assert len(downloads) == 1
    assert [entry.name for entry in home.parent.iterdir()] == ["llama.cpp"]


def test_installer_leaves_nothing_when_the_archive_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "share" / "llama.cpp"
    monkeypatch.setattr(converter_source, "home", lambda: home)
    monkeypatch.setattr(converter_source, "_download", lambda version, folder: _sdist(folder, SDIST[:2]))
    with pytest.raises(StageError, match=r"holds no conversion/, gguf-py/gguf/"):
        converter_source.install()
    assert list(home.parent.iterdir()) == []


def test_converter_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source.json").write_text('{"version": "0.0.1", "commit": "c", "sdist_sha256": "s"}')
    monkeypatch.setattr(converter_source, "home", lambda: tmp_path)
    with pytest.raises(MissingPackage, match=r"of llama-cpp-python 0\.0\.1, but the runtime is"):
        converter_source.find()
