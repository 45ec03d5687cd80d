"""llama.cpp's converters in a fork of this process: what they see, and what comes back of how they end."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch  # noqa: F401  (so that no fork has to import it)

from stages.backends.gguf import converter
from stages.backends.gguf.converter import run_converter
from stages.errors import InsufficientResources, StageError, StageKilled
from stages.formats import converter_source

Convert = Callable[..., None]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Run a script as if it were llama.cpp's."""
    home = tmp_path / "llama.cpp"
    (home / "gguf-py").mkdir(parents=True)
    monkeypatch.setattr(converter_source, "home", lambda: home)

    def run(text: str, *arguments: str) -> None:
        (home / "script.py").write_text(text)
        run_converter("script.py", arguments)

    return run


def test_a_script_finds_what_lies_beside_it_and_changes_nothing_here(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ModuleType("conversion")
    monkeypatch.setitem(sys.modules, "conversion", ours)
    (tmp_path / "llama.cpp" / "gguf-py" / "conversion.py").write_text("name = 'its own'\n")
    before, target = (list(sys.path), list(sys.argv), sys.stderr), tmp_path / "seen"
    write = "pathlib.Path(sys.argv[1]).write_text(f'{conversion.name} {sys.argv[1:]}')"
    convert(f"import conversion, pathlib, sys\n{write}", str(target))
    assert target.read_text() == f"its own {[str(target)]}"
    assert before == (sys.path, sys.argv, sys.stderr)
    assert sys.modules["conversion"] is ours


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("raise SystemExit('no such model')", StageError, "no such model"),
        ("raise SystemExit(3)", StageError, "no message"),
        ("raise ValueError('caf\\udce9 of \\u00e9')", StageError, "caf.udce9 of é"),
        ("import os; os.kill(os.getpid(), 9)", StageKilled, "signal 9"),
    ],
)
def test_how_a_script_ends_is_told(convert: Convert, text: str, kind: type[StageError], said: str) -> None:
    with pytest.raises(kind, match=said):
        convert(text)


def test_a_full_disk_is_told_where_nothing_can_be_written(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with pytest.raises(InsufficientResources):
        convert("raise OSError(28, 'No space left on device')")


def test_a_child_whose_words_cannot_be_written_is_no_second_parent(tmp_path: Path) -> None:
    """It would go on where the parent called it, with the parent's files and pipes."""
    (tmp_path / "gguf-py").mkdir()
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('a message')")
    full, ours, parent = os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_RDONLY), os.getpid()
    try:
        child = converter._fork(script, (), ours, full)
    finally:
        if os.getpid() != parent:
            os._exit(99)
    for descriptor in (full, ours):
        os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
