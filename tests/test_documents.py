"""What the documents name exists: files, links, make targets and commands."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest

from flows.cli import parser, spelled_out

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path
    for path in (ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.exists()
]


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
    assert not [link for link in links if "://" not in link and not (document.parent / link).exists()]


def test_named_source_files_exist(document: Path) -> None:
    named = re.findall(
        r"\b((?:flows|stages|serving|registry|tests|deploy)/[\w./-]*\w\.\w+)", document.read_text("utf-8")
    )
    placeholders = re.compile(r"VERB|ENGINE|RECIPE|METHOD")
    assert not [name for name in named if not placeholders.search(name) and not (ROOT / name).exists()]


def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", document.read_text("utf-8"))) <= targets


def test_commands_exist(document: Path) -> None:
    verbs = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]
    assert set(re.findall(r"(?:`|\$ )tuneline ([a-z-]+)", document.read_text("utf-8"))) <= verbs


def shown_commands(text: str) -> list[list[str]]:
    """The arguments of each `$ tuneline …` in a console block; lines may go on after a backslash."""
    shown = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^\$ (.*)$", block.replace("\\\n", " "), re.MULTILINE):
            words = shlex.split(line, comments=True)
            if "tuneline" in words and all("=" in word for word in words[: words.index("tuneline")]):
                arguments = [word for word in words[words.index("tuneline") + 1 :] if word != "…"]
                shown.append(list(takewhile(lambda word: word not in {"|", ">", "&", "&&", ";"}, arguments)))
    return shown


def test_shown_commands_take_these_arguments(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for arguments in shown_commands(document.read_text("utf-8")):
        try:
            parser().parse_args(spelled_out(arguments))
        except SystemExit as end:
            if end.code != 0:  # --help ends with 0
                wrong.append(f"{' '.join(arguments)}: {capsys.readouterr().err}")
    assert not wrong


def test_a_command_that_is_not_there_would_be_noticed() -> None:
    text = (
        "```console\n$ A=b tuneline artifacts exprot x | head\n$ ls\n$ tuneline \\\n check demo # why\n```\n"
    )
    assert shown_commands(text) == [["artifacts", "exprot", "x"], ["check", "demo"]]
    with pytest.raises(SystemExit):
        parser().parse_args(shown_commands(text)[0])
