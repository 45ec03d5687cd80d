"""ChatterBot's corpus as topics to be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.config.prepare import PrepareConfig
from stages.errors import InvalidInput
from tests.stages.data.prepared import CORPUS, Prepare, prompts_of, splits


def test_topics_are_taught_as_json(prepare_from: Prepare, out: Path) -> None:
    metrics = prepare_from(f"{CORPUS}/*.yml", format="chatterbot-topic", max_length=256).metrics
    rows = [row for rows in splits(out).values() for row in rows]
    topics = {json.loads(row["messages"][-1]["content"])["topic"] for row in rows}
    assert len(topics) == 21
    assert len(prompts_of(rows)) == len(rows) == metrics["rows"]["accepted"] > 1500
    assert all(len(row["messages"][0]["content"].split()) >= 3 for row in rows)
    assert metrics["dropped"]["short_utterances"] > 100
    assert metrics["dropped"]["ambiguous_utterances"] > 0
    assert metrics["dropped"]["repeated_utterances"] > 2000
    assert metrics["licence"] == "BSD License"


def test_topics_can_be_chosen_and_a_typo_is_named(prepare_from: Prepare, out: Path) -> None:
    prepare_from(f"{CORPUS}/*.yml", format="chatterbot-topic", topics=("food", "money"))
    answers = {row["messages"][-1]["content"] for rows in splits(out).values() for row in rows}
    assert answers == {'{"topic": "food"}', '{"topic": "money"}'}
    with pytest.raises(InvalidInput, match=r"topics: foood not in the corpus, which has ai, .*food"):
        prepare_from(f"{CORPUS}/*.yml", format="chatterbot-topic", topics=("foood",))


def test_topics_belong_to_their_format() -> None:
    with pytest.raises(ValueError, match="chatterbot-topic, not to auto"):
        PrepareConfig(source="path:x.yml", topics=("ai",))
