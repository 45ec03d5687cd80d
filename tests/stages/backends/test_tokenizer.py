"""A tokenizer is what its tokenizer.json says, whatever class its settings name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from stages.backends.chat import encode_with_mask, load_tokenizer
from stages.backends.gptq.export import _copy_tokenizer
from stages.backends.tokenizer import FILE, PLAIN_CLASS, PROBE, SETTINGS, linked, tokenizer_home
from stages.config.base import BaseConfig
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.resolve import resolve

OTHER = "LlamaTokenizerFast"
"""transformers 5 cuts text by SentencePiece's rules under this name, and loses every space of a byte-level
vocabulary."""


@pytest.fixture
def named(pico_base: Parent, tmp_path: Path) -> Path:
    """A base whose settings name another class than its tokenizer is of."""
    shutil.copytree(pico_base.path, tmp_path / "named")
    name(tmp_path / "named", OTHER)
    return tmp_path / "named"


def name(folder: Path, kind: str) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": kind}))


def of_file(folder: Path) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROBE).ids
    return ids


def as_everybody_reads(folder: Path) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(folder)(PROBE, add_special_tokens=False)["input_ids"]
    return ids


def test_the_named_class_is_not_believed(named: Path) -> None:
    assert as_everybody_reads(named) != of_file(named)  # or nothing is tested here
    tokenizer = load_tokenizer(named)
    assert tokenizer(PROBE, add_special_tokens=False)["input_ids"] == of_file(named)
    assert tokenizer.decode(of_file(named)) == PROBE
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template


def test_a_resolved_base_is_read_alike_by_everybody(named: Path, tmp_path: Path) -> None:
    out = tmp_path / "base"
    out.mkdir()
    resolve({}, BaseConfig(source=f"path:{named}"), out)
    assert as_everybody_reads(out) == of_file(named)


def test_settings_that_are_right_stay_as_they_are(pico_base: Parent, tmp_path: Path) -> None:
    out = tmp_path / "base"
    out.mkdir()
    resolve({}, BaseConfig(source=f"path:{pico_base.path}"), out)
    settings = [folder / "tokenizer_config.json" for folder in (out, pico_base.path)]
    assert settings[0].read_bytes() == settings[1].read_bytes()


def test_converters_are_shown_settings_that_are_right(named: Path, tmp_path: Path) -> None:
    before = (named / "tokenizer_config.json").read_bytes()
    linked(named, tmp_path / "alias")
    assert as_everybody_reads(tmp_path / "alias") == of_file(named)
    assert (named / "tokenizer_config.json").read_bytes() == before
    assert (tmp_path / "alias" / "model.safetensors").samefile(named / "model.safetensors")


def test_a_gptq_directory_is_read_alike_by_everybody(named: Path, tmp_path: Path) -> None:
    out = tmp_path / "gptq"
    out.mkdir()
    shutil.copyfile(named / "config.json", out / "config.json")
    _copy_tokenizer(named, out)
    assert as_everybody_reads(out) == of_file(named)


def test_what_no_class_reads_rightly_is_refused(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.backends.tokenizer.reads_as_its_file", lambda *_: False)
    with pytest.raises(
        InvalidInput, match=r"other token ids than its tokenizer\.json.*PreTrainedTokenizerFast"
    ):
        load_tokenizer(named)


def test_an_adapter_s_tokenizer_is_the_one_it_was_trained_with(pico_base: Parent, tmp_path: Path) -> None:
    assert tokenizer_home(pico_base.path, None) == tokenizer_home(pico_base.path, tmp_path) == pico_base.path
    shutil.copyfile(pico_base.path / "tokenizer.json", tmp_path / "tokenizer.json")
    assert tokenizer_home(pico_base.path, tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (SETTINGS, {"model_max_length": "long", "tokenizer_class": PLAIN_CLASS}),
        (FILE, {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}, "added_tokens": []}),
    ],
)
def test_what_fails_only_when_it_is_used_is_refused_too(
    name: str, content: dict[str, Any], pico_base: Parent, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(pico_base.path, folder)
    (folder / name).chmod(0o600)
    (folder / name).unlink()
    (folder / name).write_text(json.dumps({"version": "1.0", **content}))
    with pytest.raises(InvalidInput, match="no tokenizer could be read"):
        load_tokenizer(folder)


WITHOUT_TORCH = """
import json, sys
from pathlib import Path
from stages.backends.chat import encode_with_mask, load_tokenizer
from stages.backends.tokenizer import without_torch

without_torch()
chat = json.loads(sys.argv[2])
found = encode_with_mask(load_tokenizer(Path(sys.argv[1])), chat)
print(json.dumps([found, "torch" in sys.modules]))
"""


def test_a_process_that_computes_nothing_reads_alike_and_imports_no_torch(pico_base: Parent) -> None:
    chat = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": "Yes.  No"}]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(pico_base.path), json.dumps(chat)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stderr) == (0, "")
    ids, mask = encode_with_mask(load_tokenizer(pico_base.path), chat)
    assert json.loads(done.stdout) == [[ids, mask], False]
