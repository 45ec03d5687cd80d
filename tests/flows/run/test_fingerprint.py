"""A memo key changes when what a stage reads changes, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.run.fingerprint import commit_of, pin, pinned
from stages.config.base import BaseConfig
from stages.config.evaluate import EvaluateConfig, HeldoutTask, LmEvalTask
from stages.config.prepare import PrepareConfig
from stages.errors import InvalidInput, MissingPackage


def test_content_counts_and_place_does_not(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "data.jsonl").write_text("{}\n")
    here, there = (PrepareConfig(source=f"path:{tmp_path / p / 'data.jsonl'}") for p in ("here", "there"))
    assert pinned(here) == pinned(there)
    before = pinned(here)
    (tmp_path / "here" / "data.jsonl").write_text("{ }\n")
    assert pinned(here) != before


def test_folder_counts_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = pin(f"path:{tmp_path}", "model")
    (tmp_path / "a").rename(tmp_path / "b")
    assert pin(f"path:{tmp_path}", "model") != first


def test_hidden_files_of_a_folder_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1")
    first = pin(f"path:{tmp_path}", "dataset")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.metadata").write_text("1764331200.0")
    (tmp_path / ".DS_Store").write_text("x")
    assert pin(f"path:{tmp_path}", "dataset") == first


def test_the_home_folder_may_be_written_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pin("path:~/a.jsonl", "dataset") == pin(f"path:{tmp_path / 'a.jsonl'}", "dataset")


def test_no_absolute_path_gets_into_a_key(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    (tmp_path / "task.yaml").write_text("task: x")
    base = BaseConfig(source=f"path:{tmp_path}", chat_template=str(template))
    schema = {"kind": "json_schema", "path": str(tmp_path / "task.yaml")}
    heldout = HeldoutTask.model_validate({"metrics": ["exact", schema]})
    evaluate = EvaluateConfig(tasks=(LmEvalTask(name="x", path=str(tmp_path)), heldout))
    assert str(tmp_path) not in str([pinned(base), pinned(evaluate)])
    before = pinned(evaluate)
    (tmp_path / "task.yaml").write_text("task: y")
    assert pinned(evaluate)["tasks"][1] != before["tasks"][1]


def test_package_is_version_and_content() -> None:
    found = pin("package:chatterbot-corpus/chatterbot_corpus/data/english/*.yml", "dataset")
    one = pin("package:chatterbot-corpus/chatterbot_corpus/data/english/food.yml", "dataset")
    assert found.startswith("package:chatterbot-corpus/")
    assert found.rpartition("@")[2] != one.rpartition("@")[2]


def test_missing_package_names_the_command() -> None:
    with pytest.raises(MissingPackage, match="pip install no-such-package"):
        pin("package:no-such-package/x.gguf", "model")


def test_missing_file_in_package() -> None:
    with pytest.raises(InvalidInput, match=r"has no file 'nothing\.gguf'"):
        pin("package:chatterbot-corpus/nothing.gguf", "model")


def test_missing_path() -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        pin("path:/no/such/file", "dataset")


def test_commit_needs_no_connection() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert commit_of(f"org/name@{commit}", "model") == commit


def test_branch_that_cannot_be_resolved_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidInput, match="work offline from a downloaded copy: path:DIRECTORY"):
        commit_of("org/name@main", "model")


def test_a_judges_files_count_by_their_digests_and_its_own_prompt_by_its_version(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("{question} {answer}")
    judge = {"kind": "judge", "url": "http://127.0.0.1:1/v1", "model": "m"}

    def recorded(**settings: object) -> str:
        task = HeldoutTask.model_validate({"metrics": [{**judge, **settings}]})
        metric = pinned(EvaluateConfig(tasks=(task,)))["tasks"][0]["metrics"][0]
        return str(metric["prompt"])

    assert recorded() == "builtin:1"
    first = recorded(prompt=str(tmp_path / "prompt.txt"))
    assert first.startswith("prompt.txt@")
    (tmp_path / "prompt.txt").write_text("{answer} {question}")
    assert recorded(prompt=str(tmp_path / "prompt.txt")) != first
