"""Where rows come from: files, folders, packages and the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.config.prepare import PrepareConfig
from stages.errors import InvalidInput, MissingPackage
from tests.stages.data.prepared import Prepare, jsonl, pairs


def test_a_directory_is_read_file_by_file_and_other_files_are_left_alone(
    prepare_from: Prepare, out: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / ".hidden.jsonl").write_text("broken")
    (data / "README.md").write_text("about")
    (data / "info.yml").write_text("about: it")
    jsonl(data / "deep" / "b.jsonl", pairs(20)[10:])
    jsonl(data / "a.jsonl", pairs(20)[:10])
    metrics = prepare_from(data).metrics
    assert list(metrics["source_hashes"]) == ["a.jsonl", "deep/b.jsonl"]
    assert metrics["rows"]["accepted"] == 20


def test_nothing_readable_is_said_with_what_is_there(prepare_from: Prepare, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidInput, match=r"no data file found.*\.jsonl.*found notes.txt"):
        prepare_from(tmp_path / "notes.txt")
    with pytest.raises(InvalidInput, match="no such file or directory"):
        prepare_from(tmp_path / "nowhere.jsonl")


def test_a_package_that_is_not_there_names_the_command(prepare_from: Prepare) -> None:
    with pytest.raises(MissingPackage, match="pip install no-such-corpus"):
        prepare_from("package:no-such-corpus/data/*.jsonl")
    with pytest.raises(InvalidInput, match=r"no file of chatterbot-corpus .* matches 'english/nope.yml'"):
        prepare_from("package:chatterbot-corpus/english/nope.yml")


def test_a_hub_dataset_out_of_reach_is_one_message(
    prepare_from: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(InvalidInput, match=r"hub:org/name@main: .*Name or service not known.*path:DIRECTORY"):
        prepare_from("hub:org/name@main")


def test_a_hub_dataset_is_read_at_the_commit_that_its_branch_names(
    prepare_from: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    asked: list[object] = []

    def load(*names: object, **options: object) -> datasets.Dataset:
        asked.append((*names, options["split"], options["revision"]))
        return datasets.Dataset.from_list([{**row, "picture": b"\0"} for row in pairs(20)])

    commit = "0123456789" * 4
    info = huggingface_hub.hf_api.DatasetInfo(
        id="org/name", sha=commit, private=False, disabled=False, downloads=0, likes=0, tags=[]
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    metrics = prepare_from("hub:org/name@main", hub_config="small", hub_split="train_sft").metrics
    assert asked == [("org/name", "small", "train_sft", commit)]
    assert metrics["unused_fields"] == {"picture": 20}
    assert metrics["source_hashes"] == {"org/name (train_sft)": commit}
    assert metrics["rows"]["accepted"] == 20


def test_a_local_directory_is_not_taken_for_a_hub_dataset(
    prepare_from: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="is a local directory; write path:org/name"):
        prepare_from("hub:org/name@main")


def test_a_file_name_that_is_no_text_is_refused(prepare_from: Prepare, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / os.fsdecode(b"\xff.jsonl"), pairs(20))
    with pytest.raises(InvalidInput, match=r"the file name '\\udcff.jsonl' is not UTF-8; rename the file"):
        prepare_from(tmp_path / "data")


@pytest.mark.parametrize("source", ["data.jsonl", "path:", "s3:bucket/x"])
def test_a_source_of_no_known_kind_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="not a data source; expected path:"):
        PrepareConfig(source=source)
