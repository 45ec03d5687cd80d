"""The page of a sweep: one file that loads nothing, with pictures of what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from flows.sweep.config import Pruning
from flows.sweep.outcome import SweepOutcome
from flows.sweep.page import pictures, write_page
from tests.flows.sweep.imagined import ImaginedRun, searched

SVG = "{http://www.w3.org/2000/svg}"


def test_a_page_of_a_whole_sweep(tmp_path: Path) -> None:
    found, _ = searched(ImaginedRun(tmp_path), 16, Pruning())
    path = write_page(found, "tuneline run demo --set 'a=<b>'", "pass")
    assert path is not None
    assert found.folder is not None
    assert path.parent == found.folder
    page = path.read_text("utf-8")
    assert page.count("<svg") == 3, "the scores, and one picture for each key"
    assert "src=" not in page
    assert "Gate passed" in page
    assert "has not been asked" not in page
    assert write_page(found) == path
    assert "The gate has not been asked about the best trial." in path.read_text("utf-8")
    assert "a=&lt;b&gt;" in page
    assert page.count('<tr><th scope="row">') == 16
    assert page.count('<span class="pill pass">best</span>') == 1
    assert "{%" not in page


def test_pictures_show_what_was_measured(tmp_path: Path) -> None:
    found, _ = searched(ImaginedRun(tmp_path), 10)
    history, by_rate, by_rank = (ET.fromstring(picture) for picture in pictures(found))
    dots = history.findall(f"{SVG}circle")
    assert len([dot for dot in dots if "series-1" in dot.get("class", "")]) == len(found.whole)
    assert len(history.findall(f"{SVG}polyline")) == 2, "the best so far, and the base"
    assert by_rate.findall(f"{SVG}polyline") == []
    assert len(by_rate.findall(f"{SVG}circle")) == len(found.whole)
    assert "train.learning_rate, as a power of ten" in "".join(by_rate.itertext())
    assert "as a power of ten" not in "".join(by_rank.itertext())


def test_a_sweep_that_was_stopped_at_once_has_what_there_is(tmp_path: Path) -> None:
    nothing = SweepOutcome("demo", "routing", "exact_match", 3)
    assert write_page(nothing) is None
    nothing.folder = tmp_path
    path = write_page(nothing)
    assert path is not None
    assert "<svg" not in path.read_text("utf-8")
    assert list(pictures(nothing)) == []
