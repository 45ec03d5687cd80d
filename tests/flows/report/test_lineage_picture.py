"""The lineage picture: left to right, boxes apart, wrong graphs refused."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.report.lineage_picture import LineageEdge, LineageNode, lineage_picture

SVG = "{http://www.w3.org/2000/svg}"


def _boxes(source: str) -> dict[str, tuple[float, float]]:
    found = {}
    for group in ET.fromstring(source).iter(f"{SVG}g"):
        rect, label = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None
        assert label is not None
        found[label.text or ""] = (float(rect.get("x", "nan")), float(rect.get("y", "nan")))
    return found


@given(
    st.integers(0, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11))))
    )
)
def test_edges_go_right_and_boxes_never_overlap(graph: tuple[int, set[tuple[int, int]]]) -> None:
    size, pairs = graph
    nodes = [LineageNode(f"{i:064x}", "merged", f"n{i}") for i in range(size)]
    drawn = [(a, b) for a, b in pairs if a < b < size]
    source = lineage_picture(nodes, [LineageEdge(nodes[a].id, nodes[b].id, "merge") for a, b in drawn])
    boxes = _boxes(source)
    assert len(boxes) == size
    assert all(boxes[f"n{a}"][0] + 140 < boxes[f"n{b}"][0] for a, b in drawn)
    assert all(
        abs(x1 - x2) >= 140 or abs(y1 - y2) >= 44 for (x1, y1), (x2, y2) in combinations(boxes.values(), 2)
    )
    picture = ET.fromstring(source)
    assert len(picture.findall(f"{SVG}path")) == len(drawn)
    _, _, wide, tall = map(float, picture.get("viewBox", "").split())
    assert all(x + 140 <= wide and y + 44 <= tall for x, y in boxes.values())


def test_the_dataset_of_an_evaluation_is_told_but_not_drawn() -> None:
    nodes = [LineageNode("d" * 64, "dataset", "topics"), LineageNode("e" * 64, "evaluation", "score")]
    picture = ET.fromstring(lineage_picture(nodes, [LineageEdge("d" * 64, "e" * 64, "evaluated_on")]))
    assert picture.findall(f"{SVG}path") == []
    assert picture.findtext(f"{SVG}desc") == "score from topics (evaluated on)"


def test_a_picture_of_one_box_is_as_large_as_that_box() -> None:
    """The page's width would make it giant: a run that failed early has one artifact."""
    picture = ET.fromstring(lineage_picture([LineageNode("a" * 64, "base", "a")], []))
    assert picture.get("viewBox") == "0 0 156 68"
    assert picture.get("width") == "156"


def test_unknown_nodes_and_circles_are_refused() -> None:
    nodes = [LineageNode("a" * 64, "base", "a"), LineageNode("b" * 64, "merged", "b")]
    with pytest.raises(ValueError, match="cccccccccccc, which is not among"):
        lineage_picture(nodes, [LineageEdge("a" * 64, "c" * 64, "merge")])
    there_and_back = [LineageEdge("a" * 64, "b" * 64, "merge"), LineageEdge("b" * 64, "a" * 64, "merge")]
    with pytest.raises(ValueError, match="circle"):
        lineage_picture(nodes, there_and_back)
