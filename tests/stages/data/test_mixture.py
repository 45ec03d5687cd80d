"""Several sources in one dataset: their rows, shares, caps and names; what does not mix."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.planning.rows import row_figures
from flows.preflight.data import look
from flows.recipe import anchor
from flows.run.fingerprint import pinned
from registry.artifacts import canonical
from stages.config.prepare import PrepareConfig
from stages.errors import InvalidInput
from tests.stages.data.prepared import Prepare, Row, jsonl, pairs, prompts_of, rejects, splits

pytestmark = pytest.mark.usefixtures("tokenizer_read_once")


def chats(count: int) -> list[Row]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Which town is {n}th?"},
                {"role": "assistant", "content": f"T{n}"},
            ]
        }
        for n in range(count)
    ]


@pytest.fixture
def towns(tmp_path: Path) -> str:
    (tmp_path / "more").mkdir()
    return f"path:{jsonl(tmp_path / 'more/rows.jsonl', chats(60))}"


@pytest.fixture
def first(tmp_path: Path) -> str:
    return f"path:{jsonl(tmp_path / 'rows.jsonl', pairs(40))}"


def asked(out: Path) -> set[str]:
    return set().union(*(prompts_of(rows) for rows in splits(out).values()))


def test_rows_of_both_are_there_each_read_in_its_format(
    prepare_from: Prepare, out: Path, first: str, towns: str
) -> None:
    metrics = prepare_from(first, mix=[{"source": towns}], near_duplicates=None).metrics
    assert metrics["rows"]["accepted"] == 100
    assert metrics["format"] == "prompt-completion"
    (told,) = metrics["mixed"]
    assert (told["source"], told["format"]) == ("mix 1, path:rows.jsonl", "messages")
    assert (told["read"], told["kept"], told["rejected"]) == (60, 60, 0)
    for rows in splits(out).values():
        kinds = {"town" in row["messages"][0]["content"] for row in rows}
        assert kinds == {True, False}, "each split has rows of both"
    card = (out / "README.md").read_text()
    assert "| `mix 1, path:rows.jsonl` | messages | not stated | 60 | 60 |" in card
    assert "`mix 1, path:rows.jsonl: rows.jsonl`" in card


def test_a_share_is_drawn_and_a_cap_is_kept(prepare_from: Prepare, out: Path, first: str, towns: str) -> None:
    def drawn(**of: Any) -> tuple[set[str], dict[str, int]]:
        metrics = prepare_from(first, mix=[{"source": towns, **of}], near_duplicates=None).metrics
        return {text for text in asked(out) if "town" in text}, metrics["mixed"][0]

    half, told = drawn(share=0.5)
    assert 18 <= len(half) == told["kept"] == told["read"] <= 42
    assert drawn(share=0.5)[0] == half
    less, _ = drawn(share=0.25)
    assert less < half, "the rows of a smaller share are among those of a larger one"
    few, told = drawn(max_rows=7)
    assert (len(few), told["kept"]) == (7, 7)


def test_the_first_cap_is_of_the_first_source(
    prepare_from: Prepare, out: Path, first: str, towns: str
) -> None:
    metrics = prepare_from(first, max_rows=10, mix=[{"source": towns}], near_duplicates=None).metrics
    assert metrics["rows"]["accepted"] == 70


def test_a_row_that_both_have_is_kept_once_and_a_bad_one_says_where_it_stands(
    prepare_from: Prepare, out: Path, first: str, tmp_path: Path
) -> None:
    again = jsonl(tmp_path / "again.jsonl", [*pairs(5), {"prompt": "x"}])
    metrics = prepare_from(
        first, mix=[{"source": f"path:{again}"}], near_duplicates=None, max_deduplicated=1
    ).metrics
    assert metrics["dropped"]["exact_duplicates"] == 5
    assert metrics["rows"]["accepted"] == 40
    (reject,) = rejects(out)
    assert (reject["file"], reject["line"]) == ("mix 1, path:again.jsonl: again.jsonl", 6)


def test_the_same_bytes_wherever_the_files_lie(
    prepare_from: Prepare, out: Path, first: str, towns: str, tmp_path: Path
) -> None:
    def files() -> dict[str, bytes]:
        metrics = prepare_from(first, mix=[{"source": towns, "share": 0.5}], near_duplicates=None).metrics
        assert str(tmp_path) not in canonical(metrics).decode()
        return {file.name: file.read_bytes() for file in out.iterdir()}

    before = files()
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "more", moved)
    towns = f"path:{moved / 'rows.jsonl'}"
    assert files() == before


def test_a_key_follows_the_contents_of_each_source(first: str, towns: str) -> None:
    config = PrepareConfig.model_validate({"source": first, "mix": [{"source": towns}]})
    before = pinned(config)
    assert re.fullmatch(r"path:rows\.jsonl@[0-9a-f]{64}", before["mix"][0]["source"])
    Path(towns.removeprefix("path:")).write_text(json.dumps(chats(1)[0]) + "\n")
    assert pinned(config) != before
    assert "mix" not in pinned(PrepareConfig(source=first)), "datasets from before keep their keys"


def test_a_recipes_folder_holds_its_sources(tmp_path: Path) -> None:
    tree = {"prepare": {"source": "path:a", "mix": [{"source": "path:b"}, {"source": "hub:x/y"}, "nonsense"]}}
    anchored = anchor(tree, tmp_path)["prepare"]
    assert anchored["source"] == f"path:{tmp_path / 'a'}"
    assert anchored["mix"] == [{"source": f"path:{tmp_path / 'b'}"}, {"source": "hub:x/y"}, "nonsense"]


def test_it_is_planned_with_all_its_rows(first: str, towns: str) -> None:
    both = row_figures(
        PrepareConfig.model_validate({"source": first, "mix": [{"source": towns, "share": 0.5}]})
    )
    alone = row_figures(PrepareConfig(source=first))
    assert both is not None
    assert alone is not None
    assert 20 < both.rows - alone.rows <= 30


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mix": [{"source": "feed:tickets"}]}, "not a data source that can be mixed in"),
        ({"source": "feed:tickets", "mix": [{"source": "path:a"}]}, "mix goes with sources that do not grow"),
        (
            {"mix": [{"source": "path:a", "format": "preferences"}]},
            "with pairs .* and with answers do not mix",
        ),
        ({"mix": [{"source": "path:a", "share": 1.5}]}, "less than or equal to 1"),
        ({"mix": [{"source": "path:a", "format": "chatterbot-topic"}]}, "is for prepare.source only"),
        (
            {"mix": [{"source": "path:a", "columns": {"a": "prompt", "b": "prompt"}}]},
            "two columns for the field",
        ),
    ],
)
def test_what_does_not_mix_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PrepareConfig.model_validate({"source": "path:x", **settings})


def test_a_source_that_cannot_be_read_is_named(first: str, tmp_path: Path, prepare_from: Prepare) -> None:
    bad = jsonl(tmp_path / "bad.jsonl", [{"a": 1}])
    mix = [{"source": f"path:{bad}"}]
    found = look(PrepareConfig.model_validate({"source": first, "mix": mix}))
    assert found.problems[0].startswith(f"prepare.mix.0.source: path:{bad}: the rows have the fields a")
    with pytest.raises(InvalidInput, match=r"bad\.jsonl: the rows have the fields a"):
        prepare_from(first, mix=mix)
