"""Progress: a live line in a terminal, few plain lines in a log, an estimate that can be trusted."""

from __future__ import annotations

import io
import os
import re
import threading
from itertools import pairwise

import pytest
from rich.console import Console

from flows.run.progress_view import ProgressView, Rate, StderrConsole, figures


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain_view(clock: Clock) -> tuple[ProgressView, io.StringIO]:
    out = io.StringIO()
    return ProgressView(Console(file=out, width=100), clock=clock), out


def live_view(clock: Clock) -> tuple[ProgressView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None, legacy_windows=False)
    return ProgressView(console, clock=clock), out


def test_a_log_gets_the_first_event_then_one_per_five_seconds_and_the_last() -> None:
    clock = Clock()
    view, out = plain_view(clock)
    with view:
        view.stage("train adapter")
        for step in range(1, 121):
            clock.now += 0.1
            view.update({"done": step, "total": 120, "unit": "steps", "loss": 1.0 / step})
        view.finished("train adapter", 12.0, 2_410_000_000, "ran")
    lines = out.getvalue().splitlines()
    assert lines[0] == "train adapter: started"
    assert lines[-1] == "train adapter: done in 12 s, peak memory 2.41 GB"
    shown = [int(found[1]) for line in lines if (found := re.search(r": (\d+)/120 steps", line))]
    assert shown[0] == 1
    assert shown[-1] == 120
    assert len(shown) == 4
    assert all(later - earlier >= 50 for earlier, later in pairwise(shown[:-1]))


def test_a_line_tells_figures_and_the_time_that_is_left() -> None:
    clock = Clock()
    view, out = plain_view(clock)
    with view:
        view.stage("train")
        view.update({"done": 10, "total": 100, "unit": "steps"})
        clock.now += 30
        view.update({"done": 20, "total": 100, "unit": "steps", "loss": 1.23456, "tokens_per_second": 166.04})
    assert (
        out.getvalue().splitlines()[-1]
        == "train: 20/100 steps, loss 1.235, 166 tokens/s, about 4 min 0 s left"
    )


def test_an_unknown_total_gives_no_estimate() -> None:
    clock = Clock()
    view, out = plain_view(clock)
    with view:
        view.stage("prepare")
        for done in (1000, 2000):
            clock.now += 10
            view.update({"done": done, "total": None, "unit": "rows"})
    assert out.getvalue().splitlines()[-1] == "prepare: 2000 rows"


def test_the_estimate_follows_the_last_minute_and_survives_a_new_count() -> None:
    rate = Rate()
    assert rate.eta(0, 0, 1000) is None
    now = 0.0
    for done in range(1, 11):
        now += 20
        rate.eta(now, done, 1000)
    for done in range(11, 200):
        now += 1
        estimate = rate.eta(now, done, 1000)
    assert estimate == pytest.approx(1000 - 199, rel=0.05)
    assert rate.eta(now + 1, 1, 10) is None
    assert rate.eta(now + 3, 2, 10) == pytest.approx(16)


def test_each_unit_has_its_own_pace() -> None:
    clock = Clock()
    view, out = plain_view(clock)
    with view:
        view.stage("train")
        view.update({"done": 0, "total": 100, "unit": "steps"})
        clock.now += 50
        view.update({"done": 50, "total": 100, "unit": "steps"})
        for batch in range(1, 9):
            clock.now += 1
            view.update({"done": batch, "total": 8, "unit": "validation batches"})
        clock.now += 6
        view.update({"done": 51, "total": 100, "unit": "steps"})
    last = out.getvalue().splitlines()[-1]
    assert last.startswith("train: 51/100 steps, about 1 min ")


def test_a_terminal_gets_a_live_line_and_keeps_what_is_finished() -> None:
    clock = Clock()
    view, out = live_view(clock)
    with view:
        view.stage("train [adapter]")
        view.update({"done": 10, "total": 100, "unit": "steps"})
        clock.now += 30
        view.update({"done": 20, "total": 100, "unit": "steps", "loss": 1.5})
        assert view._live is not None
        view._live.refresh()
        view.finished("train [adapter]", 31, None, "failed")
        view.finished("merge", 0, None, "reused")
        view.finished("deploy", 0, None, "skipped")
    text = out.getvalue()
    assert "train [adapter]" in text
    assert "20/100 steps" in text
    assert "loss 1.5" in text
    assert "about 4 min 0 s left" in text
    for kept in ("train [adapter]: FAILED after 31 s", "merge: reused from the registry", "deploy: skipped"):
        assert kept in text


def test_a_terminal_shows_how_long_a_stage_has_been_under_way_from_its_start() -> None:
    clock = Clock()
    view, out = live_view(clock)
    with view:
        view.looking("resolve base")
        clock.now += 7
        view.stage("resolve base")
        clock.now += 5
        assert view._live is not None
        view._live.refresh()
    assert re.search(r"resolve base +━* *12 s", out.getvalue().replace("╸", "━").replace("╺", "━"))


def test_who_waits_says_for_whom() -> None:
    clock = Clock()
    view, out = plain_view(clock)
    with view:
        view.looking("train adapter")
        view.stage("train adapter")
        for _ in range(125):
            view.waiting("pid 7 on host one since 09:30 makes the same")
            clock.now += 1
        view.finished("train adapter", 125, None, "reused")
    assert out.getvalue().splitlines() == [
        "train adapter: started",
        *["train adapter: waiting: pid 7 on host one since 09:30 makes the same"] * 3,
        "train adapter: reused from the registry",
    ]
    view, out = live_view(clock)
    with view:
        view.stage("train adapter")
        view.waiting("pid 7 makes the same")
        assert view._live is not None
        view._live.refresh()
    assert "waiting: pid 7 makes the same" in out.getvalue()


def test_an_interruption_is_no_failure() -> None:
    view, out = plain_view(Clock())
    with view:
        view.stage("train")
        view.finished("train", 31, None, "interrupted")
    assert out.getvalue().splitlines()[-1] == "train: interrupted after 31 s"


def test_standard_output_stays_free_for_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView() as view:
        view.stage("train")
        view.update({"done": 1, "total": 2, "unit": "steps"})
        print('{"result": 1}')
    captured = capsys.readouterr()
    assert captured.out == '{"result": 1}\n'
    assert "train: 1/2 steps" in captured.err


def test_a_late_event_is_dropped() -> None:
    view, out = plain_view(Clock())
    with view:
        view.stage("train")
        view.finished("train", 1, None, "ran")
        view.update({"done": 1, "total": 2, "unit": "steps"})
    assert out.getvalue().splitlines() == ["train: started", "train: done in 1.0 s"]


def test_events_from_several_threads_make_whole_lines() -> None:
    clock = Clock()
    out = io.StringIO()
    view = ProgressView(Console(file=out, width=100), clock=clock, every=0)
    with view:
        view.stage("evaluate")
        threads = [
            threading.Thread(
                target=lambda: [view.update({"done": i, "total": 50, "unit": "items"}) for i in range(1, 51)]
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = out.getvalue().splitlines()
    assert len(lines) == 201
    assert all(re.fullmatch(r"evaluate: \d+/50 items(, about .* left)?", line) for line in lines[1:])


def test_figures_cannot_drive_the_terminal() -> None:
    assert figures({"done": 1, "total": 2, "unit": "x", "split": "te\x1b[2Jst", "rows_per_second": 12}) == [
        "split te[2Jst",
        "12 rows/s",
    ]


def test_a_reader_that_goes_away_does_not_end_what_is_under_way() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file, ProgressView(StderrConsole(file=file)) as view:
        view.note("first")
        assert os.read(reading, 100) == b"first\n"
        os.close(reading)
        view.note("second")
        view.note("third")
        print("by others, to the same place", file=file, flush=True)
