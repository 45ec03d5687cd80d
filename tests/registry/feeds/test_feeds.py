"""Feeds: what is added stays, in its order, once; watermarks; rows that cannot be used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from registry.errors import InvalidArtifact, InvalidFeed, NotFound, RegistryError
from registry.feeds.rows import LARGEST_ROW, NewRow, chat
from tests.registry.backends import Backend, only


def row(question: str, answer: str = "yes") -> NewRow:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return chat(turns, question, "file", "rows.jsonl line 1")


@only("local")
def test_rows_are_added_at_the_end_and_only_once(registry: Registry) -> None:
    assert registry.feeds.ls() == []
    first = registry.feeds.add("tickets", [row("a"), row("b"), row("a")], "ada")
    assert (first.new, first.known, first.watermark) == (2, 1, 2)
    second = registry.feeds.add("tickets", [row("b"), row("c")], "bob")
    assert (second.new, second.known, second.watermark) == (1, 1, 3)
    assert registry.feeds.add("other", [row("a")], "ada").new == 1, "feeds know nothing of each other"
    rows = registry.feeds.rows("tickets")
    assert [(one.number, one.who, one.place) for one in rows] == [
        (1, "ada", "rows.jsonl line 1"),
        (2, "ada", "rows.jsonl line 1"),
        (3, "bob", "rows.jsonl line 1"),
    ]
    assert str(registry.feeds.watermark("tickets")) == "tickets@3"
    assert [n for n, _ in registry.feeds.contents(registry.feeds.watermark("tickets", 2))] == [1, 2]
    feed = registry.feeds.get("tickets")
    assert (feed.rows, feed.forgotten, feed.who) == (3, 0, "ada")


@only("local")
def test_of_rows_alike_the_first_is_added(registry: Registry) -> None:
    given = [replace(row(text), place=f"line {n}") for n, text in enumerate(("a", "b", "a", "c"), 1)]
    registry.feeds.add("tickets", given, "ada")
    assert [one.place for one in registry.feeds.rows("tickets")] == ["line 1", "line 2", "line 4"]


@only("local")
def test_many_at_once_lose_nothing(backend: Backend) -> None:
    def work(number: int) -> None:
        with backend.open() as mine:
            for count in range(5):
                mine.feeds.add("tickets", [row(f"{number} {count} {k}") for k in range(3)], "ada")

    with backend.open() as registry:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
        assert [one.number for one in registry.feeds.rows("tickets", limit=100)] == list(range(1, 61))


@only("local")
def test_what_there_is_not(registry: Registry) -> None:
    with pytest.raises(NotFound, match="there is none yet; `tuneline feed add"):
        registry.feeds.get("tickets")
    registry.feeds.watch("tickets", Path("/somewhere"), "ada")
    with pytest.raises(InvalidFeed, match="has no rows yet"):
        registry.feeds.watermark("tickets")
    registry.feeds.add("tickets", [row("a")], "ada")
    with pytest.raises(NotFound, match="there are tickets"):
        registry.feeds.rows("ticket")
    for number in (0, 2, -1):
        with pytest.raises(InvalidFeed, match="its watermark is 1"):
            registry.feeds.watermark("tickets", number)
    for name in ("", "Tickets", "a/b", "a@1", "x" * 65):
        with pytest.raises(InvalidFeed, match="not a valid name of a feed"):
            registry.feeds.add(name, [row("a")], "ada")
    with pytest.raises(InvalidArtifact, match="is empty"):
        registry.feeds.add("tickets", [row("b")], " ")


@only("local")
def test_the_database_refuses_to_change_or_delete_a_row(registry: Registry) -> None:
    registry.feeds.add("tickets", [row("a"), row("b")], "ada")
    for statement in (
        "DELETE FROM feed_rows",
        "UPDATE feed_rows SET content = 'other'",
        "UPDATE feed_rows SET number = number + 10",
        "UPDATE feed_rows SET tenant = 'acme', content = NULL, forgotten = 'now'",
    ):
        with (
            pytest.raises(RegistryError, match=r"row of a feed|never deleted"),
            registry.database.write() as c,
        ):
            c.exec_driver_sql(statement)
    assert len(registry.feeds.rows("tickets")) == 2


def test_a_developer_is_the_system() -> None:
    system, developer = ({"role": role, "content": "Obey."} for role in ("system", "developer"))
    assert chat([developer, USER, ANSWER], "here", "http") == chat([system, USER, ANSWER], "here", "http")


USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("text", "expected messages"),
        (None, "expected messages"),
        ([ANSWER], "found 1"),
        ([USER] * 1001, "found 1001"),
        ([USER, USER], "not an answer"),
        ([USER, {**ANSWER, "content": " "}], "not an answer"),
        ([{**USER, "role": "system"}, ANSWER], "no message is from the user"),
        ([{**USER, "role": "tool"}, ANSWER], "role 'tool'.*plain chats: have recipes read rows with tools"),
        ([{**USER, "tools": "[]"}, ANSWER], "found tools; a feed keeps plain chats.*from a file"),
        ([USER, {**ANSWER, "tool_calls": []}], "found tool_calls; a feed keeps plain chats"),
        ([{**USER, "name": "x"}, ANSWER], "nothing else"),
        ([{**USER, "content": 1}, ANSWER], "is a int"),
        ([{**USER, "content": "\ud800"}, ANSWER], "half a character"),
        ([{**USER, "content": "\0"}, ANSWER], "U\\+0000"),
        ([{**USER, "content": "x" * LARGEST_ROW}, ANSWER], "a row has at most"),
    ],
)
def test_rows_that_cannot_be_used(messages: Any, reason: str) -> None:
    with pytest.raises(InvalidFeed, match=reason):
        chat(messages, "here", "http")
