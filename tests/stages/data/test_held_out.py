"""Datasets of a feed: what was held out stays held out, and nothing like it is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages.config.feed import file_in
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.data.held_out import FILE, OF_FEED
from stages.errors import InvalidInput
from stages.prepare import prepare

Prepare = Callable[..., dict[str, Any]]
THINGS = ("disk", "router", "cable", "printer", "screen", "keyboard", "battery", "camera", "phone", "mouse")
WORDS = ("slow", "hot", "loud", "dead", "blue", "wet", "old", "new", "heavy", "broken", "dusty", "bent")
Chat = list[dict[str, str]]


def question(number: int) -> str:
    thing, word = THINGS[number % 10], WORDS[number // 10 % 12]
    return f"Number {number}: why is my {thing} {word} after {number * 7 % 31} days of use at {number} F"


pytestmark = pytest.mark.usefixtures("tokenizer_read_once")


@pytest.fixture
def dataset(pico_base: Parent, tmp_path: Path) -> Prepare:
    """`feed_rows.json` of a dataset made from these questions (None: forgotten), going on from another."""

    def make(
        name: str, questions: Sequence[str | Chat | None], previous: str | None = None, **settings: Any
    ) -> dict[str, Any]:
        out = tmp_path / name
        out.mkdir()
        rows = [
            ""
            if text is None
            else json.dumps(
                {"messages": text if isinstance(text, list) else [user(text), answer(f"It is {text}")]}
            )
            for text in questions
        ]
        file_in(out).write_text("".join(f"{row}\n" for row in rows))
        parents = {"base": pico_base}
        if previous is not None:
            parents["previous"] = pico_base.model_copy(update={"path": tmp_path / previous})
        source = f"feed:tickets@{len(questions)}"
        prepare(parents, PrepareConfig(source=source, **{"max_deduplicated": 1.0, **settings}), out)
        assert not file_in(out).exists()
        assert {path.name for path in out.glob("*.parquet")} == {f"{split}.parquet" for split in OF_FEED}
        return {**json.loads((out / FILE).read_text()), "out": out}

    return make


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def asked(dataset: dict[str, Any], split: str) -> set[str]:
    rows = pq.read_table(dataset["out"] / f"{split}.parquet")["messages"].to_pylist()
    return {row[0]["content"] for row in rows}


def test_all_that_the_first_dataset_holds_out_is_new(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    assert (first["feed"], first["watermark"]) == ("tickets", 60)
    assert first["test"] == first["fresh"] != []
    assert asked(first, "fresh") == asked(first, "test") == {question(n - 1) for n in first["test"]}
    assert sorted(first["train"] + first["validation"] + first["test"]) == list(range(1, 61))


def test_what_was_held_out_stays_so_and_new_rows_are_judged_beside_it(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    second = dataset("two", [question(n) for n in range(100)], "one")
    assert second["test"] == first["test"], "as it was, whatever came"
    assert second["fresh"]
    assert min(second["fresh"]) > 60
    assert set(first["train"]) <= set(second["train"])
    third = dataset("three", [question(n) for n in range(140)], "two", seed=5)
    assert third["test"] == sorted(second["test"] + second["fresh"]), "grows by what was judged fresh"
    held_out = set(third["test"]) | set(third["fresh"])
    assert not held_out & set(third["train"] + third["validation"])
    assert min(third["fresh"]) > 100, "another seed makes no row fresh that was trained on"


def test_copies_of_a_held_out_row_are_never_trained_on(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    frozen = question(first["test"][0] - 1)
    # more of them than make a frame, by which rows that many share a wording are told apart
    copies = [f"{frozen} {mark}" for mark in ("please", "thanks", "now", "again", "today", "ok", "hm", "so")]
    copies += [frozen.upper(), frozen]
    other = [question(n) for n in range(60, 90)]
    second = dataset("two", [*(question(n) for n in range(60)), *copies, *other], "one", near_duplicates=0.7)
    trained = asked(second, "train") | asked(second, "validation")
    assert not trained & {*copies, frozen}
    assert set(other) & trained
    assert first["test"] == second["test"]


def test_a_copy_that_was_trained_on_before_is_dropped_and_not_the_held_out_row(dataset: Prepare) -> None:
    questions = [question(n) for n in range(60)]
    first = dataset("one", questions, near_duplicates=None)
    frozen = first["test"][0]
    questions[first["train"][0] - 1] = f"{question(frozen - 1)} please"
    second = dataset("two", [*questions, *(question(n) for n in range(60, 90))], "one", near_duplicates=0.7)
    assert second["test"] == first["test"]
    assert first["train"][0] not in second["train"]


def test_forgotten_rows_are_in_no_split(dataset: Prepare) -> None:
    questions: list[str | None] = [question(n) for n in range(60)]
    first = dataset("one", questions)
    gone = [first["test"][0], first["train"][0]]
    for number in gone:
        questions[number - 1] = None
    second = dataset("two", [*questions, *(question(n) for n in range(60, 90))], "one")
    assert second["test"] == first["test"][1:]
    assert not set(gone) & {n for split in OF_FEED for n in second[split]}
    texts = b"".join(path.read_bytes() for path in second["out"].iterdir() if path.suffix != ".parquet")
    assert question(gone[0] - 1).encode() not in texts


def test_one_new_prompt_is_judged_also_where_chance_would_train_on_all(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    second = dataset("two", [question(n) for n in range(62)], "one")
    assert len(second["fresh"]) == 1
    assert second["fresh"][0] > first["watermark"]


def test_without_new_rows_another_seed_holds_out_the_same_rows(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    again = dataset("again", [question(n) for n in range(60)], "one", seed=5)
    assert again["test"] == again["fresh"] == first["test"]
    second = dataset("two", [question(n) for n in range(100)], "one")
    other = dataset("other", [question(n) for n in range(100)], "two", seed=5)
    assert (other["test"], other["fresh"]) == (second["test"], second["fresh"])
    assert not {*second["test"], *second["fresh"]} & {*other["train"], *other["validation"]}
    fewer = dataset("fewer", [question(n) for n in range(80)], "two", seed=5)
    assert fewer["set_aside"] == [n for n in second["fresh"] if n > 80]


def test_a_held_out_row_that_a_dataset_cannot_have_stays_held_out_for_the_next_one(dataset: Prepare) -> None:
    questions = [question(n) + (" please" * 200 if n % 2 else "") for n in range(60)]
    first = dataset("one", questions, max_length=8192)
    second = dataset("two", questions, "one", max_length=400, max_rejected=1.0)
    gone = sorted(set(first["test"]) - set(second["test"]))
    assert gone
    assert second["set_aside"] == gone
    third = dataset("three", [*questions, *map(question, range(60, 90))], "two", max_length=8192)
    assert third["test"] == first["test"]
    assert "set_aside" not in third


@pytest.mark.parametrize("near", [None, 0.85])
def test_a_held_out_question_is_not_trained_on_in_another_conversation_either(
    dataset: Prepare, near: float | None
) -> None:
    questions = [question(n) for n in range(60)]
    first = dataset("one", questions)
    frozen = question(first["test"][0] - 1)
    more: list[str | Chat] = []
    for word in ("thanks", "and the other one upstairs", "who can come", "how long will that take them"):
        system = {"role": "system", "content": f"You know all devices. Say {word}, and be short."}
        more += [
            [user(frozen), answer("so"), user(f"{word}, said the man on the second floor"), answer(word)],
            [system, user(frozen.upper()), answer(word)],
        ]
    second = dataset("two", [*questions, *more, *map(question, range(60, 80))], "one", near_duplicates=near)
    used = {number for split in OF_FEED for number in second[split]}
    assert not used & set(range(61, 61 + len(more)))
    assert used & set(range(61 + len(more), 200))


def test_a_recipe_that_holds_nothing_out_gets_no_fresh_row(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    second = dataset("two", [question(n) for n in range(90)], "one", split={"test": 0.0})
    assert (second["test"], second["fresh"]) == (first["test"], [])


def test_where_only_held_out_rows_are_left_there_is_nothing_to_train_on(dataset: Prepare) -> None:
    first = dataset("one", [question(n) for n in range(60)])
    left = [question(n) if n + 1 in first["test"] else None for n in range(60)]
    with pytest.raises(InvalidInput, match="no row is left to train on"):
        dataset("two", left, "one")


def test_a_dataset_of_no_feed_cannot_be_gone_on_from(
    pico_base: Parent, dataset: Prepare, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(InvalidInput, match="prepared from a feed"):
        dataset("two", [question(n) for n in range(9)], "one")
