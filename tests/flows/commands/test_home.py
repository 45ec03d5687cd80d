"""Which home a command works in, and what it says where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import cli
from flows.settings import Settings
from registry import Registry

READING = (
    ("artifacts",),
    ("artifacts", "show", "0123456789ab"),
    ("artifacts", "lineage", "0123456789ab"),
    ("artifacts", "verify", "0123456789ab"),
    ("artifacts", "export", "0123456789ab", "out"),
    ("artifacts", "compat", "0123456789ab"),
    ("artifacts", "gc"),
    ("endpoints",),
    ("endpoints", "stop", "1"),
    ("channels",),
    ("channels", "show", "team/prod"),
    ("channels", "policy", "team/prod"),
    ("channels", "rollout", "team/prod"),
    ("channels", "outcomes", "team/prod"),
    ("gate", "team/prod", "--candidate", "0123456789ab", "--channel", "team/prod"),
    ("gate", "show", "012345"),
    ("promote", "0123456789ab", "team/prod"),
    ("rollback", "team/prod", "--reason", "worse"),
    ("runs",),
    ("runs", "show"),
    ("runs", "open"),
    ("tenants",),
    ("tenants", "show", "acme"),
    ("chat", "team/prod"),
    ("api", "--port", "0"),
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder without a home in it or above it."""
    monkeypatch.delenv("TUNELINE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_home_that_is_not_there_is_said_and_not_made(
    words: tuple[str, ...], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 3
    said = capsys.readouterr()
    assert f"there is no registry in {elsewhere / '.tuneline'}" in said.err
    assert "TUNELINE_HOME" in said.err
    assert len(said.err.splitlines()) == 1
    assert list(elsewhere.iterdir()) == []


def test_what_puts_something_in_says_where_it_makes_the_home(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tenants", "add", "acme", "team/prod"]) == 0
    assert f"making a new registry in {elsewhere / '.tuneline'}" in capsys.readouterr().err
    assert cli.main(["tenants", "add", "other", "team/prod"]) == 0
    assert "making" not in capsys.readouterr().err


def test_the_nearest_home_above_is_used(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry.open(elsewhere / ".tuneline").close()
    below = elsewhere / "data" / "raw"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Settings().root == elsewhere / ".tuneline"
    assert Settings().found_above
    assert cli.main(["artifacts"]) == 0
    Registry.open(below.parent / ".tuneline").close()
    assert Settings().root == below.parent / ".tuneline"


def test_another_users_home_above_is_passed_over(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry.open(elsewhere / ".tuneline").close()
    monkeypatch.setattr(os, "getuid", lambda: elsewhere.stat().st_uid + 1)
    assert Settings().root == elsewhere / ".tuneline"  # here it is what the user asked for by being here
    (elsewhere / "below").mkdir()
    monkeypatch.chdir(elsewhere / "below")
    assert Settings().root == elsewhere / "below" / ".tuneline"


def test_a_named_home_is_that_one(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry.open(elsewhere / ".tuneline").close()
    monkeypatch.setenv("TUNELINE_HOME", "other")
    assert Settings().root == elsewhere / "other"
    monkeypatch.setenv("TUNELINE_HOME", "")  # as good as not set
    assert Settings().root == elsewhere / ".tuneline"


def _loop(folder: Path) -> str:
    (folder / "loop").symlink_to(folder / "loop")
    return str(folder / "loop")


def _file(folder: Path) -> str:
    (folder / "file").write_text("not a folder")
    return str(folder / "file")


@pytest.mark.parametrize(
    "bad", [lambda _: "~nobody-of-that-name", _loop, _file], ids=["user", "loop", "file"]
)
def test_a_home_that_can_be_none_is_invalid_input(
    bad: Callable[[Path], str],
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TUNELINE_HOME", bad(elsewhere))
    for words in (["artifacts"], ["tenants", "add", "acme", "team/prod"]):
        assert cli.main(words) == 3
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert "defect" not in error
