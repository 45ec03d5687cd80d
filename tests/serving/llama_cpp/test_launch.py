"""llama.cpp's missing package, and the kernels that some compilers break."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import llama_cpp
import pytest
from llama_cpp import llama_cpp as low

from serving import standalone
from serving.errors import EngineMissing
from serving.llama_cpp.amx_workaround import avoid_amx
from stages.config.deploy import DeployConfig


@pytest.mark.parametrize("absent", ["llama_cpp", "uvicorn"])
def test_a_missing_package_names_the_command(
    monkeypatch: pytest.MonkeyPatch, smollm2_gguf: Path, config: DeployConfig, tmp_path: Path, absent: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else found(name))
    with pytest.raises(
        EngineMissing, match=rf"'{absent}' is not installed; run: pip install 'llama-cpp-python"
    ):
        standalone.start("a" * 64, smollm2_gguf, config, tmp_path / "log")


@pytest.mark.parametrize(("info", "plain"), [(b"AVX2 = 1 | AMX_INT8 = 1 | ", True), (b"AVX2 = 1 | ", False)])
def test_amx_is_avoided_where_it_is_built_in(
    monkeypatch: pytest.MonkeyPatch, info: bytes, plain: bool
) -> None:
    stock = low.llama_model_default_params
    stock = getattr(stock, "stock", stock)
    monkeypatch.setattr(low, "llama_model_default_params", stock)
    monkeypatch.setattr(llama_cpp, "llama_model_default_params", stock)
    monkeypatch.setattr(low, "llama_print_system_info", lambda: info)
    assert low.llama_model_default_params().use_extra_bufts is True
    assert avoid_amx() is plain
    assert avoid_amx() is plain, "a second call changes nothing"
    assert low.llama_model_default_params().use_extra_bufts is not plain
    assert llama_cpp.llama_model_default_params().use_extra_bufts is not plain
