"""`tuneline feed`, and a recipe that reads one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.errors import Usage
from flows.recipe import load
from flows.retraining import learning
from flows.run import feed_files
from flows.run.feed_files import SETTLED, read_directory
from flows.run.feed_input import at_watermark, handed_over, require_unchanged
from registry import Registry
from registry.errors import InvalidFeed, NotFound
from stages.config.feed import file_in

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code and JSON document of a command; for people it is printed too."""

    def command(*words: str) -> tuple[int, Any]:
        assert cli.main(list(words)) in (0, 3)
        capsys.readouterr()
        code = cli.main([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return command


def pairs(path: Path, *questions: str) -> Path:
    rows = [{"prompt": question, "completion": f"about {question}"} for question in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_where_there_is_nothing_yet_it_says_what_makes_some(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Registry.open(home) as registry:
        for words, told in (
            (["ls"], "no feed yet; `tuneline feed add NAME FILE` makes one"),
            (["forgotten"], "nothing was forgotten yet"),
        ):
            assert cli.main(["feed", *words]) == 0
            assert capsys.readouterr().out.startswith(told)
        registry.feeds.add("tickets", [], "ada")
        assert cli.main(["feed", "show", "tickets"]) == 0
        assert "no row yet; `tuneline feed add tickets FILE` adds some" in capsys.readouterr().out


def test_a_feed_from_its_first_row_on(run: Run, tmp_path: Path) -> None:
    file = pairs(tmp_path / "a.jsonl", "one", "two")
    assert run("feed", "add", "tickets", str(file))[1] == {
        "feed": "tickets", "new": 0, "known": 2, "forgotten": 0, "watermark": 2, "unused_fields": {},
    }  # fmt: skip
    file.write_text(file.read_text() + pairs(tmp_path / "b.jsonl", "three").read_text())
    run("feed", "add", "tickets", str(tmp_path))
    assert [(feed["name"], feed["rows"]) for feed in run("feed")[1]] == [("tickets", 3)]
    shown = run("feed", "show", "tickets", "--limit", "1")[1]
    assert shown["latest_rows"][0]["content"]["messages"][0] == {"role": "user", "content": "three"}


def test_fields_that_are_not_used_are_listed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "a", "at": 3}, {"role": "assistant", "content": "b", "at": 4}]
    rows = [{"messages": turns, "id": 7, "source": ""}, {"messages": [*turns, *turns], "id": 8}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert cli.main(["feed", "add", "tickets", "a.jsonl"]) == 0
    assert capsys.readouterr().out == (
        "feed tickets: 2 new rows; its watermark is 2\nnot used: id (2 rows), messages[].at (2 rows)\n"
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n', "1 of 2 rows.*a.jsonl line 2"),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{\n', "line 2: malformed"),
        ("a.jsonl", '{"x": 1}\n', "have the fields x"),
        ("a.jsonl", "", "holds no rows"),
        ("a.txt", "hello", "not a file of rows"),
    ],
)
def test_a_file_that_cannot_be_used_adds_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, reason: str
) -> None:
    (tmp_path / name).write_text(text)
    assert cli.main(["feed", "add", "tickets", name]) == 3
    assert re.search(reason, capsys.readouterr().err)
    with Registry.open(home) as registry:
        assert registry.feeds.ls() == []


def test_a_watched_directory_is_read_before_the_feed_is(run: Run, home: Path, tmp_path: Path) -> None:
    directory = tmp_path / "in"
    directory.mkdir()
    old = pairs(directory / "a.jsonl", "one")
    os.utime(old, (1, 1))
    assert run("feed", "watch", "tickets", str(directory))[1]["added"]["watermark"] == 1
    late = pairs(directory / "b.jsonl", "two")
    recipe = load("pico-smoke", ["prepare.source=feed:tickets", "prepare.format=auto"])
    with Registry.open(home) as registry:
        assert at_watermark(recipe, registry).prepare.source == "feed:tickets@1", "it may still be written"
        os.utime(late, (late.stat().st_mtime - SETTLED,) * 2)
        assert at_watermark(recipe, registry).prepare.source == "feed:tickets@2"
        directory.rename(tmp_path / "gone")
        with pytest.raises(Usage, match="which does not exist; make it"):
            at_watermark(recipe, registry)
        directory.write_text("")
        with pytest.raises(Usage, match="which is a file and not a directory: name a directory"):
            at_watermark(recipe, registry)
    assert run("feed", "watch", "tickets", "--off")[1]["added"] is None
    with Registry.open(home) as registry:
        assert read_directory(registry, "tickets") is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "rows.jsonl",
            "is a file, and a directory is expected; `tuneline feed add tickets FILE` adds one file",
        ),
        ("nowhere", "does not exist; make the directory first"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    pairs(tmp_path / "rows.jsonl", "one")
    assert cli.main(["feed", "watch", "tickets", str(tmp_path / name)]) == 3
    assert f"{tmp_path / name} {reason}: nothing was changed" in capsys.readouterr().err
    with Registry.open(home) as registry:
        assert registry.feeds.ls() == []


def test_a_file_that_is_taken_away_meanwhile_is_left_out(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "in"
    directory.mkdir()
    run("feed", "watch", "tickets", str(directory))
    there = pairs(directory / "a.jsonl", "one")
    os.utime(there, (1, 1))
    monkeypatch.setattr(feed_files, "_of_directory", lambda _: [there, directory / "gone.jsonl"])
    with Registry.open(home) as registry:
        added = read_directory(registry, "tickets")
    assert added is not None
    assert added.new == 1


def test_a_look_at_many_targets_of_one_feed_reads_its_directory_once(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("feed", "add", "tickets", str(pairs(tmp_path / "a.jsonl", "one", "two")))
    recipe = load("pico-smoke", ["prepare.source=feed:tickets", "prepare.format=auto"])
    seen: list[str] = []
    looking = learning.at_watermark
    monkeypatch.setattr(learning, "at_watermark", lambda r, g: seen.append(r.prepare.source) or looking(r, g))
    with Registry.open(home) as registry:
        sources = learning.Sources(registry)
        assert sources.learned(recipe) == sources.learned(recipe)
        run("feed", "add", "tickets", str(pairs(tmp_path / "b.jsonl", "three")))
        assert sources.learned(recipe) != learning.Sources(registry).learned(recipe)
    assert seen == ["feed:tickets"] * 2


def test_a_run_reads_the_feed_at_one_watermark(run: Run, home: Path, tmp_path: Path) -> None:
    run("feed", "add", "tickets", str(pairs(tmp_path / "a.jsonl", "one", "two")))
    recipe = load("pico-smoke", ["prepare.source=feed:tickets", "prepare.format=auto"])
    with Registry.open(home) as registry:
        begun = at_watermark(recipe, registry)
        assert begun.prepare.source == "feed:tickets@2"
        registry.feeds.add("tickets", [], "ada")
        run("feed", "add", "tickets", str(pairs(tmp_path / "b.jsonl", "three")))
        assert at_watermark(begun, registry).prepare == begun.prepare
        with handed_over(registry, begun.prepare, tmp_path):
            lines = file_in(tmp_path).read_text().splitlines()
        assert [json.loads(line)["messages"][0]["content"] for line in lines] == ["one", "two"]
        assert not file_in(tmp_path).exists(), "rows stay nowhere but in the registry"
        with pytest.raises(NotFound, match="no feed 'nope'; there are tickets"):
            at_watermark(load("pico-smoke", ["prepare.source=feed:nope", "prepare.format=auto"]), registry)
        with pytest.raises(InvalidFeed, match="its watermark is 3"):
            at_watermark(load("pico-smoke", ["prepare.source=feed:tickets@9"]), registry)


@pytest.mark.parametrize("there", [False, True])
def test_check_names_a_feed_that_is_not_there(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    if there:
        assert cli.main(["feed", "add", "other", str(pairs(tmp_path / "a.jsonl", "one"))]) == 0
    words = ["check", "pico-smoke", "--set", "prepare.source=feed:nope", "--set", "prepare.format=auto"]
    assert cli.main(words) == 3
    assert "prepare.source: " in capsys.readouterr().out


def test_check_counts_the_rows_of_a_feed(run: Run, tmp_path: Path) -> None:
    run("feed", "add", "tickets", str(pairs(tmp_path / "a.jsonl", *(f"question {n}" for n in range(40)))))
    (tmp_path / "in").mkdir()
    run("feed", "watch", "empty", str(tmp_path / "in"))
    timed = {}
    for feed in ("tickets", "empty"):
        words = [
            "check",
            "pico-smoke",
            "--set",
            f"prepare.source=feed:{feed}",
            "--set",
            "prepare.format=auto",
        ]
        code, document = run(*words)
        assert code == 0
        timed[feed] = {row["stage"] for row in document["stages"] if row["seconds"] is not None}
    assert timed["tickets"] - timed["empty"] == {"prepare data"}, "the recipe bounds the steps and the items"
    unbounded = [
        "--set",
        "evaluate.tasks=[{kind: heldout, name: routing}]",
        "--set",
        "gate.tasks.0.task=routing",
    ]
    rows = run(*words, *unbounded, "--set", "prepare.source=feed:tickets")[1]["stages"]
    assert all(row["seconds"] is not None for row in rows)


def test_what_is_forgotten_is_told_with_what_holds_it(run: Run, home: Path, tmp_path: Path) -> None:
    file = pairs(tmp_path / "a.jsonl", "one", "two")
    with Registry.open(home) as registry:
        registry.tenants.add("acme", "team/prod", "ada")
    run("feed", "add", "tickets", str(file), "--tenant", "acme")
    recipe = load("pico-smoke", ["prepare.source=feed:tickets", "prepare.format=auto"])
    with Registry.open(home) as registry:
        begun = at_watermark(recipe, registry)
    assert run("feed", "export", "tickets", "out.jsonl")[1]["exit_code"] == 3, "the first one made the file"
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    code, told = run("feed", "forget", "--tenant", "acme")
    assert (code, told["holders"]) == (0, [])
    assert [one["rows"] for one in run("feed", "forgotten")[1]["forgotten"]] == [{"tickets": [1, 2]}, {}]
    with Registry.open(home) as registry:
        assert at_watermark(recipe, registry).prepare.source == "feed:tickets@2-2"
        with pytest.raises(InvalidFeed, match="since this run began"):
            require_unchanged(registry, begun.prepare)
    assert run("feed", "add", "tickets", str(file), "--tenant", "nobody")[0] == 3
    assert run("feed", "forget", "--tenant", "nobody")[0] == 3
