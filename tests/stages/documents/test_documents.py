"""Raw text: cut into pieces, learned whole, held out by document, and measured by its likelihood."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from registry.evaluation_results import read_items
from stages.backends import chat, template
from stages.backends.evaluate.likelihood import perplexity
from stages.backends.evaluate.prompts import read_split
from stages.backends.train.rows import encode_split
from stages.config.evaluate import PerplexityTask
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.data.chats.documents import pieces
from stages.errors import InvalidInput
from stages.formats.messages import as_request
from stages.statistics.corpus import corpus_difference, corpus_interval, value_of
from tests.stages.data.prepared import Prepare, jsonl, splits

LONG = " ".join(f"Town {n} lies by the river {n % 13}, and {n} people live there.\n" for n in range(90))
DOCUMENT = [{"role": "document", "content": "Bo lies south."}]


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"text": f"Report {n} of town {n * n}: " + LONG[40 * n : 40 * n + 900 * (n % 3) + 60]}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer(pico_base: Parent) -> chat.Tokenizer:
    return chat.load_tokenizer(pico_base.path)


@pytest.mark.parametrize("text", [LONG, "x" * 3000, "あ" * 900, "\n\n  a" * 700])
def test_a_document_is_cut_into_pieces_that_are_all_of_it(tokenizer: chat.Tokenizer, text: str) -> None:
    found = list(pieces(tokenizer, text, 64))
    assert "".join(piece["content"] for piece in found) == text
    assert max(len(chat.encode(tokenizer, [piece])) for piece in found) <= 64
    assert [piece["role"] for piece in found] == ["part"] * (len(found) - 1) + ["document"]


def test_pieces_are_tokenized_as_the_whole_is(tokenizer: chat.Tokenizer) -> None:
    cut = [token for piece in pieces(tokenizer, LONG, 64) for token in chat.encode(tokenizer, [piece])]
    whole = chat.encode(tokenizer, [{"role": "document", "content": LONG}])
    assert cut == whole
    assert whole[-1] == tokenizer.eos_token_id


def test_all_of_a_document_is_learned_but_what_begins_every_text(
    tokenizer: chat.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = chat.encode_with_mask(tokenizer, DOCUMENT)
    assert (ids[-1], set(mask)) == (tokenizer.eos_token_id, {1})
    part = [{**DOCUMENT[0], "role": "part"}]
    assert chat.encode(tokenizer, part) == ids[:-1]
    assert chat.encode(tokenizer, DOCUMENT, add_generation_prompt=True) == ids[:-1]
    for module in (chat, template):
        monkeypatch.setattr(module, "text_opening", lambda _: "<|im_start|>")
    begun, learned = chat.encode_with_mask(tokenizer, DOCUMENT)
    assert (begun[1:], learned) == (ids, [0, *mask])
    assert as_request(DOCUMENT) is None


def test_a_base_without_an_end_of_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no token that ends a text"):
        template.render(SimpleNamespace(eos_token=None, name_or_path="models/base"), DOCUMENT)  # type: ignore[arg-type]


def test_pieces_of_a_document_are_in_one_split(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", rows(40)), format="text", max_length=64).metrics
    assert metrics["rows"]["accepted"] > 80
    found = splits(out)
    documents = {name: {row["prompt_hash"] for row in part} for name, part in found.items()}
    assert sum(map(len, documents.values())) == len(set.union(*documents.values())) == 40
    assert sum(metrics["splits"][name]["prompts"] for name in found) == 40
    row = max(found["train"], key=lambda row: row["tokens"])
    assert row["tokens"] == row["trainable"] <= 64
    assert "river" in (out / "README.md").read_text("utf-8")


def test_documents_and_chats_mix_and_each_task_reads_its_own(
    prepare_from: Prepare, tokenizer: chat.Tokenizer, out: Path, tmp_path: Path
) -> None:
    chats = [{"prompt": f"How warm is town {n}?", "completion": f"{n * n} degrees."} for n in range(30)]
    other = jsonl(tmp_path / "chats.jsonl", chats)
    source = jsonl(tmp_path / "rows.jsonl", rows(30))
    mix = [{"source": f"path:{other}"}]
    prepare_from(source, format="text", mix=mix, max_length=64, system="S", split={"test": 0.4})
    read = read_split(out / "test.parquet")
    assert read
    assert {chat[-1]["role"] for chat in read} == {"assistant"}
    assert {chat[0]["content"] for chat in read} == {"S"}
    documents = perplexity.read_documents(out / "test.parquet", PerplexityTask())
    assert len(read) + len(documents) == len(splits(out)["test"])
    assert len(encode_split(out / "train.parquet", tokenizer, 64, tmp_path)) == len(splits(out)["train"])


def test_what_a_task_cannot_read_is_said(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    prepare_from(jsonl(tmp_path / "rows.jsonl", rows(20)), format="text", max_length=64)
    with pytest.raises(InvalidInput, match=r"holds documents.*kind perplexity"):
        read_split(out / "test.parquet")
    chats = tmp_path / "chats"
    chats.mkdir()
    with pytest.raises(InvalidInput, match=r"test.parquet has none; prepare documents.*format: text"):
        perplexity.read_documents(chats / "test.parquet", PerplexityTask())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"system": "S"}, "system belongs to chats"),
        ({"train_on": "last"}, "documents .* are learned whole"),
        ({"source": "feed:notes"}, "format text is not read from a feed"),
        ({"mix": [{"source": "path:b", "format": "preferences"}]}, "pairs .* do not mix"),
    ],
)
def test_settings_that_documents_have_no_place_for(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PrepareConfig.model_validate({"source": "path:a", "format": "text", **settings})


def test_the_likelihood_is_that_of_all_tokens_also_in_parts(
    torch_lm: Any, prepare_from: Prepare, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    prepare_from(jsonl(tmp_path / "rows.jsonl", rows(12)), format="text", max_length=64, split={"test": 0.5})
    dataset = Parent(id="d" * 64, kind="dataset", path=out, metrics={})
    scores = tmp_path / "scores"
    scores.mkdir()
    monkeypatch.setattr(perplexity, "BRANCH_TOKENS", 24)
    result = perplexity.run_perplexity(torch_lm, PerplexityTask(), dataset, scores)
    losses, tokens = 0.0, 0
    for message, _ in perplexity.read_documents(out / "test.parquet", PerplexityTask()):
        ids = torch.tensor([chat.encode(torch_lm.tokenizer, [message])])
        with torch.no_grad():
            losses += float(torch_lm.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    found = result["metrics"]
    assert found["log_likelihood"]["value"] == pytest.approx(-losses / tokens, rel=1e-5)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(losses / tokens), rel=1e-4)
    assert found["log_likelihood"]["low"] < found["log_likelihood"]["value"] < found["log_likelihood"]["high"]
    assert re.match(rf"{tokens:,} tokens in {result['n']} pieces", result["words"])
    items = read_items(scores, result)
    assert None not in {item["cluster"] for item in items}
    assert sum(item["counts"]["tokens"][1] for item in items) == tokens


def test_the_interval_of_a_likelihood_covers_and_a_difference_is_in_nats() -> None:
    random = np.random.default_rng(1)
    missed = 0
    for _ in range(60):
        tokens = random.integers(20, 200, 40)
        counts = [(float(t * random.normal(3.0, 0.4)), float(t)) for t in tokens]
        low, high, how = corpus_interval("log_likelihood", counts, range(40))
        missed += not low <= -3.0 <= high
        assert how == "bootstrap"
    assert missed <= 9, "95 % intervals miss 5 % of the time"
    better = [(loss - 0.1 * n, n) for loss, n in counts]
    mean = corpus_difference("log_likelihood", better, counts, range(40))
    assert mean.value == pytest.approx(0.1)
    assert value_of("perplexity", counts) == pytest.approx(math.exp(-value_of("log_likelihood", counts)))
    same = corpus_difference("perplexity", counts, counts, range(40))
    assert (same.value, same.moved) == (0.0, 0)
    assert json.dumps([same.low, same.high])
