"""What the documents name exists: files, links, make targets and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.cli import parser

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
    placeholders = re.compile(r"VERB|ENGINE|RECIPE")
    assert not [name for name in named if not placeholders.search(name) and not (ROOT / name).exists()]


def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", document.read_text("utf-8"))) <= targets


def test_commands_exist(document: Path) -> None:
    verbs = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]
    assert set(re.findall(r"(?:`|\$ )tuneline ([a-z]+)", document.read_text("utf-8"))) <= verbs
