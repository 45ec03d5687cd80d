"""Benches report in one way, and docs/benchmarks.md is what their JSON files and texts give."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.__main__ import NAMES, main
from tests.bench.page import DOCS, FOLDER, ORDER, documents
from tests.bench.results import FOLDER as VARIABLE
from tests.bench.results import ROOT, Report, table


@pytest.mark.parametrize("path", documents())
def test_the_page_and_its_pictures_are_what_the_files_give(path: str) -> None:
    assert (DOCS / path).read_text("utf-8") == documents()[path], "run: make docs"


def test_pictures_are_whole_documents() -> None:
    pictures = {path: text for path, text in documents().items() if path.endswith(".svg")}
    assert pictures
    for text in pictures.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")


def test_no_file_is_left_out_of_the_page() -> None:
    written = {DOCS / path for path in documents()}
    known = written | {FOLDER / f"{name}.{kind}" for name in ORDER for kind in ("md", "json")}
    assert set(FOLDER.iterdir()) <= known
    assert set(NAMES) <= set(ORDER)


def test_every_link_to_a_section_leads_to_a_heading() -> None:
    page = documents()["benchmarks.md"]
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", page, re.M)
    }
    links = re.findall(r"\]\(#([^)]*)\)", page)
    for document in (ROOT / "README.md", *DOCS.glob("*.md")):
        links += re.findall(r"benchmarks\.md#([^)]*)\)", document.read_text("utf-8"))
    assert len(links) > len(ORDER)
    assert set(links) <= headings


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *words], cwd=ROOT, capture_output=True, text=True
    )


def test_a_bench_writes_what_it_found_and_on_what(tmp_path: Path) -> None:
    options = ["--gateways", "40", "--questions", "30"]
    done = run("served_answers", "--folder", tmp_path, "--", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "served_answers.json").read_text("utf-8"))
    assert set(found) == {
        "bench", "arguments", "date", "commit", "machine", "versions", "seconds", "others", "tables",
    }  # fmt: skip
    assert found["arguments"] == options
    assert set(found["machine"]) == {"processor", "cores", "arithmetic", "python", "memory (GB)"}
    assert set(found["versions"]) == {"numpy", "scipy"}
    assert [len(one["rows"]) for one in found["tables"]] == [1, 8]
    assert table(found["tables"][1]) in done.stdout


def test_make_runs_one_bench_with_its_options() -> None:
    words = ["make", "-n", "bench-served_answers", "OPTIONS=--gateways 40", "BENCHMARKS=/elsewhere"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "python -m tests.bench served_answers --folder /elsewhere -- --gateways 40\n" in said


def test_one_that_fails_hinders_no_other_and_writes_nothing(tmp_path: Path) -> None:
    done = run("served_answers", "published", "--folder", tmp_path, "--", "--gateways", "many")
    assert done.returncode == 1
    assert [file.name for file in tmp_path.iterdir()] == ["published.json"]
    assert "not measured, for the reasons above: served_answers\n" in done.stderr


def test_an_unknown_bench_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merges"])
    assert "there is no bench merges; choose from arithmetic" in capsys.readouterr().err


def test_what_falls_behind_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr("sys.argv", ["it", "--other", "/home/me/other/python"])
    with Report("it") as report:
        report.row("Speed", {"tool": "a|b", "rows/s": 12345.678, "ratio": 1.5, "95 %": [1.234, 1.766]})
        report.row("Speed", {"tool": "theirs", "rows/s": 3, "ratio": None}, behind=True)
        report.note("Speed", "A sentence.")
    found = json.loads((tmp_path / "it.json").read_text("utf-8"))
    assert found["arguments"] == ["--other", "python"], "folders of a machine are nobody's business"
    assert found["tables"][0]["rows"][0]["rows/s"] == 12346
    assert table(found["tables"][0]).splitlines() == [
        "*Speed*",
        "",
        "| tool | rows/s | ratio | 95 % |",
        "|---|---|---|---|",
        "| **theirs** | 3 | – | – |",
        "| a\\|b | 12,346 | 1.5 | 1.23–1.77 |",
        "",
        "A sentence.",
    ]


def test_a_bench_that_breaks_off_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ZeroDivisionError), Report("it"):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
