"""Times, sizes and foreign text for people."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.formatting import as_typed, command_name, duration, plain, short, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (98_200_000, "98.2 MB"),
        (999_999_999, "1.00 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count: int | None, words: str) -> None:
    assert size(count) == words


def test_short_ids() -> None:
    assert short("0123456789abcdef") == "0123456789ab"
    assert short(None) == "–"


@given(st.text(st.characters()))
def test_plain_text_can_stand_in_xml_and_drives_no_terminal(text: str) -> None:
    shown = plain(text)
    assert ET.fromstring(f"<t>{escape(shown)}</t>").text in (shown, None)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)


def test_plain_text_keeps_what_people_write() -> None:
    assert plain("naïve 日本語 👩‍💻\n\ttab") == "naïve 日本語 👩‍💻\n\ttab"
    assert plain("\x1b[2Jgone\u202etxt.exe") == "[2Jgonetxt.exe"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    command = tmp_path / "a place" / "bin" / "tuneline"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    return command


def test_a_command_off_the_path_is_named_as_it_was_typed(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(installed), "run"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_name() == f"'{installed}'"
    assert as_typed("stop it with: tuneline endpoints stop 1") == (
        f"stop it with: '{installed}' endpoints stop 1"
    )
    assert as_typed("run `tuneline gate`; `tuneline` gates") == f"run `'{installed}' gate`; `tuneline` gates"
    assert as_typed("the command tuneline gates, and /opt/tuneline too") == (
        "the command tuneline gates, and /opt/tuneline too"
    )


def test_a_command_on_the_path_is_named_by_its_name(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(installed)])
    monkeypatch.setenv("PATH", str(installed.parent))
    assert command_name() == "tuneline"


def test_another_command_of_that_name_on_the_path_is_not_meant(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tuneline").touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(installed)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_name() == f"'{installed}'"


def test_a_caller_that_is_not_the_command_names_it_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    assert command_name() == "tuneline"


def test_pip_and_python_are_those_of_this_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = "not there; run: pip install x==1, or `python -m stages.x`; pip install y; a pip install z"
    for name in ("pip", "python"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_typed(said) == said
    monkeypatch.setenv("PATH", "/nowhere")
    own = tmp_path / "python"
    assert as_typed(said) == (
        f"not there; run: {own} -m pip install x==1, or `{own} -m stages.x`; {own} -m pip install y; "
        "a pip install z"
    )
