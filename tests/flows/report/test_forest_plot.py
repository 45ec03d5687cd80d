"""The gate as a picture: well-formed, readable by machines and by those who see no colours."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from flows.report.forest_plot import forest_plots

SVG = "{http://www.w3.org/2000/svg}"


def rule(**changes: Any) -> dict[str, Any]:
    known = {
        "rule": "routing/exact_match improve against baseline", "kind": "task", "method": "tango",
        "verdict": "pass", "effect": 0.4, "low": 0.3, "high": 0.5, "threshold": 0.2, "n": 231,
    }  # fmt: skip
    return {**known, **changes}


def test_shares_are_drawn_together_and_other_metrics_alone() -> None:
    plots = forest_plots([
        rule(),
        rule(verdict="insufficient", effect=-0.01, low=-0.06, high=0.03, threshold=-0.05),
        rule(rule="summary/rouge keep against live", method="clustered-mean", verdict="fail", effect=-3.0,
             low=-4.0, high=-2.0, threshold=-1.0),
        rule(rule="size", kind="ceiling", method=None),
        rule(rule="heldout/f1 keep", verdict="invalid", effect=None),
    ])  # fmt: skip
    assert len(plots) == 2
    first, second = (ElementTree.fromstring(plot) for plot in plots)
    assert [g.get("class") for g in first.iter(f"{SVG}g")] == ["verdict-pass", "verdict-insufficient"]
    texts = [text.text for text in first.iter(f"{SVG}text")]
    assert "+40.0 (+30.0 to +50.0), n = 231: pass" in texts
    description = first.find(f"{SVG}desc")
    assert description is not None
    assert "-1.0 (-6.0 to +3.0), n = 231: insufficient" in str(description.text)
    assert [text.text for text in second.iter(f"{SVG}text")][-2].startswith("summary/rouge keep")  # type: ignore[union-attr]


def test_the_whisker_lies_where_the_interval_does() -> None:
    (plot,) = forest_plots([rule(low=-0.1, effect=0.0, high=0.1, threshold=-0.05)])
    drawn = ElementTree.fromstring(plot)
    lines = {line.get("class"): line for line in drawn.iter(f"{SVG}line")}
    dot = next(drawn.iter(f"{SVG}circle"))
    left, right = (float(lines["whisker"].get(key, "")) for key in ("x1", "x2"))
    asked, zero = float(lines["asked"].get("x1", "")), float(lines["zero"].get("x1", ""))
    assert left < asked < zero < right
    assert abs(float(dot.get("cx", "")) - zero) < 0.1
    assert abs((left + right) / 2 - zero) < 0.2


def test_markup_in_a_name_is_text() -> None:
    (plot,) = forest_plots([rule(rule="<script>alert(1)</script>" * 8)])
    assert "<script" not in plot
    ElementTree.fromstring(plot)


def test_nothing_to_draw() -> None:
    assert forest_plots([]) == []
    assert forest_plots([{"rule": "r", "sentence": "of an older version"}]) == []
