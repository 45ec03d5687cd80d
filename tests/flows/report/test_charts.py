"""Charts: round ticks that cover the numbers, labels that keep apart, few points, bad numbers."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.report.charts import (
    ErrorBar,
    Series,
    histogram,
    interval_chart,
    line_chart,
    nice_ticks,
    tick_labels,
)
from flows.report.svg import FONT

SVG = "{http://www.w3.org/2000/svg}"
numbers = st.floats(-1e12, 1e12, allow_nan=False)
WORDS = {"title": "T", "description": "D", "x_label": "step", "y_label": "loss"}


@given(numbers, numbers, st.integers(2, 10))
def test_ticks_cover_the_range_evenly_and_are_few(a: float, b: float, most: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(a, b, most)
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    assert 2 <= len(ticks) <= most + 1
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert all(math.isclose(right - left, step, rel_tol=1e-5) for left, right in pairwise(ticks))
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-4


@given(numbers, numbers, st.integers(2, 10))
def test_tick_labels_are_distinct_and_near_their_ticks(a: float, b: float, most: int) -> None:
    ticks = nice_ticks(a, b, most)
    labels = tick_labels(ticks)
    assert len(set(labels)) == len(ticks)
    step = ticks[1] - ticks[0]
    assert all(
        abs(float(label.replace(",", "")) - tick) < step / 2
        for label, tick in zip(labels, ticks, strict=True)
    )


def test_a_range_whose_ends_are_ticks_gets_no_spare_tick() -> None:
    assert nice_ticks(0, 0.3, 3) == [0.0, 0.1, 0.2, 0.3]
    assert nice_ticks(0, 1, 5, smallest_step=1) == [0, 1]


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(-1e3, 1e3)), max_size=30))
def test_labels_of_one_axis_never_overlap(points: list[tuple[float, float]]) -> None:
    picture = ET.fromstring(line_chart([Series("training", sorted(points))], **WORDS))
    ticks = [node for node in picture.iter(f"{SVG}text") if node.get("class") == "tick"]
    rows: dict[str, list[tuple[float, float]]] = {}
    for node in ticks:
        if node.get("text-anchor") == "middle":
            half = 0.6 * FONT * len(node.text or "") / 2
            centre = float(node.get("x", "nan"))
            rows.setdefault(node.get("y", ""), []).append((centre - half, centre + half))
    for spans in rows.values():
        assert all(left[1] <= right[0] for left, right in pairwise(sorted(spans)))
    heights = sorted(float(n.get("y", "nan")) for n in ticks if n.get("text-anchor") == "end")
    assert all(b - a >= FONT for a, b in pairwise(heights))


@pytest.mark.parametrize(
    ("points", "lines", "dots"), [([], 0, 0), ([(3, 1.5)], 0, 1), ([(1, 2), (2, 1)], 1, 0)]
)
def test_no_point_one_point_many_points(points: list[tuple[float, float]], lines: int, dots: int) -> None:
    picture = ET.fromstring(line_chart([Series("training", points)], **WORDS))
    assert len(picture.findall(f"{SVG}polyline")) == lines
    assert len(picture.findall(f"{SVG}circle")) == dots
    assert ("nothing to draw" in "".join(picture.itertext())) == (not points)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        line_chart([Series("training", [(1, bad)])], **WORDS)
    with pytest.raises(ValueError, match="finite"):
        histogram([0, bad], [1], **WORDS)
    with pytest.raises(ValueError, match="finite"):
        interval_chart([ErrorBar("a", 0.5, bad, 1, "")], title="T", description="D", share=True, x_label="x")


def test_bars_stand_on_the_axis_and_are_as_high_as_their_counts() -> None:
    picture = ET.fromstring(histogram([0, 10, 20, 40], [4, 0, 2], **WORDS))
    bars = picture.findall(f"{SVG}rect")
    heights = [float(bar.get("height", "nan")) for bar in bars]
    assert heights[0] == pytest.approx(2 * heights[2])
    assert heights[1] == 0
    assert (
        len({round(float(bar.get("y", "nan")) + height) for bar, height in zip(bars, heights, strict=True)})
        == 1
    )
    assert float(bars[2].get("width", "nan")) > 1.9 * float(bars[0].get("width", "nan"))


@pytest.mark.parametrize(("edges", "counts"), [([0, 1], [1, 2]), ([0, 1, 1], [1, 2]), ([0], [1])])
def test_a_histogram_whose_edges_do_not_fit_is_refused(edges: list[float], counts: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing edges"):
        histogram(edges, counts, **WORDS)


def test_an_interval_is_drawn_where_it_lies() -> None:
    rows = [ErrorBar("base", 0.25, 0.1, 0.5, "25%"), ErrorBar("tuned", 1.0, 0.9, 1.0, "100%")]
    picture = ET.fromstring(interval_chart(rows, title="T", description="D", share=True, x_label="x"))
    lines = [n for n in picture.iter(f"{SVG}line") if "whisker" in n.get("class", "")]
    (base, tuned), (dot, _) = lines, picture.findall(f"{SVG}circle")
    start, end = float(base.get("x1", "nan")), float(base.get("x2", "nan"))
    assert (float(dot.get("cx", "nan")) - start) / (end - start) == pytest.approx(0.15 / 0.4, abs=0.01)
    assert float(tuned.get("x1", "nan")) > end


def test_hostile_words_stay_words() -> None:
    evil = '<script>"&\x1b[31m\x00'
    source = line_chart([Series(evil, [(1, 1)])], title=evil, description=evil, x_label=evil, y_label=evil)
    picture = ET.fromstring(source)
    assert not [node for node in picture.iter() if node.tag.endswith("script")]
    assert picture.findtext(f"{SVG}title") == '<script>"&[31m'
