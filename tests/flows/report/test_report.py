"""The report: what it says in a terminal and in a log, and an HTML file that stands alone."""

from __future__ import annotations

import dataclasses
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import yaml
from rich.console import Console

from flows.report.markdown import markdown
from flows.report.page import html_page
from flows.report.report import (
    AnswerRow,
    LineageEdge,
    LineageNode,
    ModelRow,
    RunReport,
    Score,
    StageRow,
    render_terminal,
    verdict,
    write_html,
)
from flows.report.rows import score_of
from flows.report.summary import model_row

EVIL = '<script>alert("1")</script>\x1b[31m'
SPLIT = "the test split"
BASE, ADAPTER = "b" * 64, "a" * 64


def small_report() -> RunReport:
    return RunReport(
        recipe="demo",
        run_id="run-1",
        started=datetime(2026, 11, 22, 8, 0, tzinfo=UTC),
        seconds=734,
        stages=[
            StageRow("train adapter", "train", ADAPTER, "ran", 312.7, 2_410_000_000, "240 steps"),
            StageRow("evaluate base", "evaluate", "e" * 64, "reused", 0.01),
        ],
        models=[
            ModelRow("base NF4", {"heldout exact": Score(0.014, 0.005, 0.04, 214)}, 98_000_000, 4.6, SPLIT),
            ModelRow("tuned", {"heldout exact": Score(0.799, 0.74, 0.847, 214)}, None, None, SPLIT),
        ],
        history=[
            {"step": 5, "loss": 2.5, "learning_rate": 2e-4, "tokens": 900},
            {"step": 10, "loss": 1.5, "learning_rate": 1e-4, "tokens": 1800},
            {"step": 10, "validation_loss": 1.25},
        ],
        length_histogram={"bins": [0, 64, 128], "counts": [30, 12]},
        nodes=[LineageNode(BASE, "base", "SmolLM2"), LineageNode(ADAPTER, "adapter", "adapter")],
        edges=[LineageEdge(BASE, ADAPTER, "adapter")],
        gate={"verdict": "pass", "rules": [{"rule": "r", "sentence": "Better than the base."}]},
        answers=[AnswerRow("Which topic?", "I do not know.", "computers", None)],
        endpoint={
            "id": "ep-1",
            "url": "http://127.0.0.1:40123",
            "engine": "llama.cpp",
            "config": {"port": 0},
        },
        toolchain={"torch": "2.13.0"},
        base={"source": "package:x/y.gguf", "weights_digest": "c" * 64},
        channel={"name": "demo/prod", "artifact_id": ADAPTER, "generation": 1},
    )


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises AssertionError where tags do not nest."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open:
            self.text.setdefault(self._open[-1], []).append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shown(report: RunReport, html: Path | None = None, **console: object) -> str:
    out = io.StringIO()
    render_terminal(report, Console(file=out, **{"width": 100, **console}), html)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_log_gets_every_fact_in_100_columns_without_colour(tmp_path: Path) -> None:
    text = shown(small_report(), tmp_path / "report.html")
    words = " ".join(text.split())
    for fact in (
        "demo: Gate passed", "took 12 min 14 s", "5 min 13 s", "2.41 GB", "reused", "a" * 12, "240 steps",
        "79.9% (74.0–84.7)", "(n=214)", "98.0 MB", "4.60", "Measured on the test split.",
        "Better than the base.",
        "Which topic? I do not know. computers", "demo/prod points to aaaaaaaaaaaa, generation 1",
        "http://127.0.0.1:40123/v1 (llama.cpp)", "tuneline endpoints stop ep-1",
    ):  # fmt: skip
        assert fact in words
    assert f"Report: {tmp_path / 'report.html'}\n" in text
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("Report:")) <= 100


def test_a_terminal_gets_colour_but_no_stranger_drives_it() -> None:
    report = dataclasses.replace(
        small_report(), answers=[AnswerRow("q", "[bold]\x1b]0;owned\x07", "[/red]", "c")]
    )
    text = shown(report, force_terminal=True, color_system="standard")
    assert "\x1b[" in text
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert "[bold]]0;owned" in text
    assert "[/red]" in text


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_an_interruption_is_told_from_a_failure(state: Literal["failed", "interrupted"]) -> None:
    row = StageRow("train adapter", "train", None, state, 3.0, None, "the same command again goes on")
    report = dataclasses.replace(small_report(), stages=[row], gate=None)
    assert verdict(report) == (state, f"{state.capitalize()} at train adapter")
    text = shown(report, force_terminal=True, color_system="standard")
    assert ("\x1b[1;31m" in text, "\x1b[1;33m" in text) == (state == "failed", state == "interrupted")
    assert "the same command again goes on" in text
    pills = [one["class"] for one in Page(html_page(report)).of("span") if "pill" in (one["class"] or "")]
    assert pills == [f"pill {state}", f"pill {state}"]


def test_a_report_says_in_which_arithmetic_it_was_computed() -> None:
    words = "computed in float32: bfloat16 is 12 times slower on this processor"
    report = dataclasses.replace(small_report(), arithmetic=words)
    assert words in shown(report)
    assert words in html_page(report)
    assert words in markdown(report, Path("/report.html"))
    assert "computed in" not in shown(small_report())


def test_markdown_cannot_be_driven_by_an_answer_or_a_note() -> None:
    row = StageRow("train | adapter", "train", None, "failed", 3.0, None, "<img src=x>\n# [a](javascript:b)")
    text = markdown(dataclasses.replace(small_report(), stages=[row]), Path("/r.html"))
    assert "- train \\| adapter: \\<img src=x\\> \\# \\[a\\](javascript:b)" in text.splitlines()
    assert text.count("\n# ") == 0


def test_the_engine_for_an_adapter_apart_can_be_copied_into_serve_yaml() -> None:
    held = {"artifact_id": BASE, "engine": "vllm", "name": "tiny-16bit@1", "max_rank": 32}
    report = dataclasses.replace(small_report(), resident=held)
    section = shown(report).partition("serve.yaml needs the engine ")[2].partition("\n")[0]
    assert yaml.safe_load(section) == {"engine": "vllm", "model": "tiny-16bit@1", "max_rank": 32}
    del held["max_rank"]
    assert "needs the engine {engine: vllm, model: tiny-16bit@1}" in shown(report)
    assert "<dt>engine</dt><dd>vllm</dd>" in html_page(report)


def test_an_ascii_log_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as out:
        render_terminal(
            dataclasses.replace(small_report(), answers=[AnswerRow("où?", "là", "日本", None)]),
            Console(file=out, width=100),
        )
        out.flush()
        text = raw.getvalue().decode("ascii")
    assert "79.9% (74.0-84.7)" in text
    assert "o??" in text


def test_different_places_of_measurement_are_told_per_model() -> None:
    report = small_report()
    other = dataclasses.replace(report.models[1], measured_on="the validation split")
    words = " ".join(shown(dataclasses.replace(report, models=[report.models[0], other])).split())
    assert "base NF4: measured on the test split." in words
    assert "tuned: measured on the validation split." in words


def test_many_tasks_still_fit() -> None:
    tasks = {f"task {i} acc": Score(0.5, 0.4, 0.6, 10 + i) for i in range(7)}
    report = dataclasses.replace(small_report(), models=[ModelRow("base", tasks, 1, 1.0, "test")])
    text = shown(report)
    assert all(f"(n={10 + i})" in text for i in range(7))
    assert max(map(len, text.splitlines())) <= 100


def test_a_failure_comes_first_with_its_whole_reason() -> None:
    reason = "killed by the system: it needed more than the 24 GB of memory; " * 4
    report = small_report()
    failed = StageRow("merge", "merge", None, "failed", 3.0, None, reason.strip())
    report = dataclasses.replace(report, stages=[*report.stages, failed], gate=None, models=(), answers=())
    assert verdict(report) == ("failed", "Failed at merge")
    assert "merge failed: killed by the system" in shown(report)
    page = html_page(report)
    assert page.index("Failed at merge") < page.index(reason.strip()) < page.index("<section")


@pytest.mark.parametrize("given", ["pass", "fail", "insufficient", "invalid"])
def test_each_verdict_has_words_and_a_colour(given: str) -> None:
    report = dataclasses.replace(small_report(), gate={"verdict": given, "rules": []})
    tone, words = verdict(report)
    page = html_page(report)
    assert f'<span class="pill {tone}">{words}</span>' in page
    assert re.search(rf"\.{tone}\b[^}}]*{{[^}}]*color", page)
    assert words.lower() != given


def test_the_page_loads_nothing_and_nests() -> None:
    source = html_page(small_report())
    page = Page(source)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in page.tags
    }
    assert not any(
        {"src", "href", "xlink:href", "srcset", "action"} & attributes.keys() for _, attributes in page.tags
    )
    assert not re.search(r"url\(|@import|@font-face", source)
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_can_be_heard() -> None:
    page = Page(html_page(small_report()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = page.of("svg")
    assert len(pictures) == 4
    for named in [*pictures, *page.of("section")]:
        assert set((named["aria-labelledby"] or "").split()) <= set(ids)
    assert all(head["scope"] in {"col", "row"} for head in page.of("th"))
    assert page.of("html")[0]["lang"] == "en"
    assert page.text["h1"] == ["demo"]


def test_hostile_strings_are_shown_not_obeyed() -> None:
    report = dataclasses.replace(
        small_report(),
        recipe=EVIL,
        stages=[StageRow(EVIL, EVIL, EVIL, "failed", 1.0, None, EVIL)],
        models=[ModelRow(EVIL, {EVIL: Score(0.5, 0.4, 0.6, 9)}, 1, 1.0, EVIL, EVIL)],
        nodes=[LineageNode(EVIL, '"><script>', EVIL)],
        edges=[],
        gate={"verdict": "pass", "rules": [{"sentence": EVIL}]},
        answers=[AnswerRow(EVIL, EVIL, EVIL, EVIL)],
        endpoint={EVIL: EVIL},
        base={EVIL: EVIL},
        toolchain={EVIL: EVIL},
        channel={EVIL: EVIL},
    )
    source = html_page(report)
    page = Page(source)
    assert page.of("script") == []
    assert "\x1b" not in source
    assert '<script>alert("1")</script>[31m' in page.text["h1"]


def test_a_run_that_only_began_has_a_page_too() -> None:
    report = RunReport("demo", "r", datetime(2026, 1, 1, tzinfo=UTC), 0.1, stages=[])
    page = Page(html_page(report))
    assert page.text["h2"] == ["Stages"]
    assert "Finished; the gate was not asked" in shown(report)
    assert page.text["title"] == ["demo: Finished; the gate was not asked"]


def test_a_loss_that_is_no_number_is_left_out_and_told() -> None:
    report = small_report()
    report = dataclasses.replace(report, history=[*report.history, {"step": 15, "loss": float("nan")}])
    assert "1 logged row without a finite loss is not drawn" in " ".join(html_page(report).split())


def test_a_perplexity_is_not_written_in_per_cent() -> None:
    assert str(Score(12.041, 11.5, 12.6, 5, unit="number")) == "12.04 (11.5–12.6)"
    assert str(Score(12.041, 11.5, 12.6, 5)) == "12.04 (11.5–12.6)"
    assert str(Score(0.5, 0.25, 0.75, 5)) == "50.0% (25.0–75.0)"
    bleu = {"value": 31.24, "low": 29.0, "high": 33.5, "n": 5, "unit": "of 100"}
    assert str(score_of(bleu)) == "31.24 of 100 (29–33.5)"
    assert str(score_of({**bleu, "value": 0.3, "low": 0.2, "high": 0.4})) == "0.3 of 100 (0.2–0.4)"


def test_of_single_fields_the_f1_is_shown_and_pass_at_k_of_all_it_was_asked_for() -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "interval": "bootstrap"}
    fields = {f"fields_{name}[town]": {**figure, "figure": name} for name in ("f1", "precision", "recall")}
    tasks = {"orders": {**fields, "pass@1[exact_match]": figure, "exact_match": figure}}
    metrics = {"tasks": tasks, "main": {"orders": "exact_match"}, "measured_on": "orders"}
    evaluation = SimpleNamespace(manifest=SimpleNamespace(metrics=metrics))
    measured = SimpleNamespace(label="m", evaluation=evaluation, model=SimpleNamespace(id="1"))
    shown = ["orders exact_match", "orders fields_f1[town]", "orders pass@1[exact_match]"]
    assert list(model_row(cast(Any, measured)).scores) == shown


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs" / "report.html"
    write_html(small_report(), path)
    before = path.read_text("utf-8")
    assert before == html_page(small_report())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_html(dataclasses.replace(small_report(), recipe="other"), path)
    assert path.read_text("utf-8") == before
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two #rrggbb colours."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_light_and_dark_can_be_read() -> None:
    blocks = re.findall(r":root \{([^}]*)\}", html_page(small_report()))
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
        pairs = [(ink, paper) for ink in ("text", "muted") for paper in ("page", "card", "soft")]
        pairs += [(tone, f"{tone}-bg") for tone in ("good", "bad", "even")]
        assert {
            pair: ratio for pair in pairs if (ratio := _contrast(*(colours[c] for c in pair))) < 4.5
        } == {}
        graphics = {f"c{i}": _contrast(colours[f"c{i}"], colours["card"]) for i in range(8)}
        assert {name: ratio for name, ratio in graphics.items() if ratio < 3} == {}
