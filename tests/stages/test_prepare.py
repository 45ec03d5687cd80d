"""prepare: splits that share no prompt, the same bytes each time, and every bad row written down."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from registry.artifacts import canonical
from stages.backends import chat
from stages.config.prepare import PrepareConfig, SplitConfig
from stages.contract import Parent
from stages.data.dedupe import normalized
from stages.data.split import SPLITS
from stages.errors import InvalidInput
from stages.prepare import prepare
from tests.stages.data.prepared import CORPUS, Prepare, Row, jsonl, pairs, prompts_of, rejects, splits

pytestmark = pytest.mark.usefixtures("tokenizer_read_once")


def assert_nothing_leaks(found: dict[str, list[Row]]) -> None:
    train, validation, test = (prompts_of(found[name]) for name in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_tech_support_has_ten_questions_and_none_in_two_splits(prepare_from: Prepare, out: Path) -> None:
    metrics = prepare_from(f"{CORPUS}/tech_support.yml", near_duplicates=None, max_deduplicated=1).metrics
    found = splits(out)
    assert metrics["rows"] == {"read": 1050, "accepted": 10, "rejected": 0}
    assert metrics["format"] == "chatterbot-dialogue"
    assert_nothing_leaks(found)
    assert sum(len(prompts_of(rows)) for rows in found.values()) == 10
    assert all(found.values())


def test_no_prompt_leaks_where_questions_have_several_answers(prepare_from: Prepare, out: Path) -> None:
    """ai.yml asks most questions more than once, each time with another answer."""
    metrics = prepare_from(f"{CORPUS}/ai.yml").metrics
    found = splits(out)
    assert metrics["rows"]["accepted"] > sum(s["prompts"] for s in metrics["splits"].values())
    assert_nothing_leaks(found)


words = st.sampled_from(["is", "it", "on", "On", "off", " ", "why", "é", "\n"])
texts = st.lists(words, min_size=1, max_size=3).map(" ".join).filter(str.strip)


@settings(max_examples=12, deadline=None, database=None)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=25),
    seed=st.integers(0, 3),
    held_out=st.sampled_from([(0.05, 0.1), (0.3, 0.3), (0.0, 0.2)]),
)
def test_whatever_the_rows_no_prompt_leaks_and_none_is_lost(
    pico_base: Parent,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    seed: int,
    held_out: tuple[float, float],
) -> None:
    folder = tmp_path_factory.mktemp("prepare")
    source = jsonl(folder / "rows.jsonl", [{"prompt": p, "completion": c} for p, c in rows])
    validation, test = held_out
    config = PrepareConfig(
        source=f"path:{source}",
        seed=seed,
        split=SplitConfig(validation=validation, test=test),
        max_deduplicated=1,
    )
    distinct = {normalized(prompt) for prompt, _ in rows}
    if len(distinct) < 1 + bool(validation) + bool(test):
        with pytest.raises(InvalidInput, match="distinct prompt"):
            prepare({"base": pico_base}, config, folder / "out")
        return
    metrics = prepare({"base": pico_base}, config, folder / "out").metrics
    found = splits(folder / "out")
    assert_nothing_leaks(found)
    assert found["train"]
    assert bool(found["validation"]) == bool(validation)
    kept = {normalized(row["messages"][0]["content"]) for rows in found.values() for row in rows}
    if metrics["dropped"]["near_duplicates"] == 0:
        assert kept == distinct
    dropped = sum(metrics["dropped"].values())
    assert metrics["rows"]["read"] == len(rows) == metrics["rows"]["accepted"] + dropped


def test_each_row_has_the_figures_of_its_rendered_chat(
    prepare_from: Prepare, out: Path, pico_base: Parent, tmp_path: Path
) -> None:
    prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(40)), system="Count.")
    tokenizer = AutoTokenizer.from_pretrained(str(pico_base.path))
    for row in [row for rows in splits(out).values() for row in rows]:
        system, _, answer = row["messages"]
        assert system == {"role": "system", "content": "Count."}
        ids = tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]
        assert row["tokens"] == len(ids)
        spoken = tokenizer(answer["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert row["trainable"] == len(spoken)


def test_the_same_input_gives_the_same_bytes_in_any_order(pico_base: Parent, tmp_path: Path) -> None:
    def files(name: str, rows: list[Row]) -> tuple[dict[str, bytes], bytes]:
        (tmp_path / name).mkdir()
        source = jsonl(tmp_path / name / "rows.jsonl", rows)
        facts = prepare({"base": pico_base}, PrepareConfig(source=f"path:{source}"), tmp_path / name / "out")
        found = {file.name: file.read_bytes() for file in sorted((tmp_path / name / "out").iterdir())}
        assert str(tmp_path).encode() not in b"".join(found.values())
        return found, canonical(facts.model_dump(mode="json"))

    once, again = files("once", pairs(60)), files("again", pairs(60))
    turned, _ = files("turned", pairs(60)[::-1])
    assert once == again
    assert set(once[0]) == {f"{s}.parquet" for s in SPLITS} | {
        "README.md",
        "rejects.jsonl",
        "statistics.json",
    }
    assert all(turned[f"{name}.parquet"] == once[0][f"{name}.parquet"] for name in SPLITS)


def test_every_bad_row_is_written_down_with_line_and_reason(
    prepare_from: Prepare, out: Path, tmp_path: Path
) -> None:
    rows: list[Any] = pairs(30)
    rows[3] = {"prompt": "No answer?", "completion": ""}
    rows[7] = ["no object"]
    rows[9] = {"prompt": "Ends <|im_end|> here", "completion": "x"}
    rows[11] = {"prompt": "word " * 600, "completion": "x"}
    source = jsonl(tmp_path / "rows.jsonl", rows)
    source.write_text(source.read_text() + "{broken\n")
    metrics = prepare_from(source, max_length=512, max_rejected=0.2).metrics
    assert [(r["file"], r["line"], r["code"]) for r in rejects(out)] == [
        ("rows.jsonl", 4, "missing_answer"),
        ("rows.jsonl", 8, "malformed"),
        ("rows.jsonl", 10, "control_token"),
        ("rows.jsonl", 12, "too_long"),
        ("rows.jsonl", 31, "malformed"),
    ]
    assert metrics["rejected"] == {"control_token": 1, "malformed": 2, "missing_answer": 1, "too_long": 1}
    assert metrics["rows"] == {"read": 31, "accepted": 26, "rejected": 5}
    assert "<|im_end|>" in rejects(out)[2]["reason"]
    assert "more than max_length 512" in rejects(out)[3]["reason"]


def test_a_row_without_trainable_token_is_rejected(
    pico_base: Parent, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that drops the answers of some chats trains at loss 0 on them."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% if m.content != 'Quiet' %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endif %}{% else %}{{ m.content }}"
        "<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    monkeypatch.setattr(chat.load_tokenizer(pico_base.path), "chat_template", template)
    source = jsonl(tmp_path / "rows.jsonl", [*pairs(20), {"prompt": "Who?", "completion": "Quiet"}])
    metrics = prepare({"base": pico_base}, PrepareConfig(source=f"path:{source}"), out).metrics
    assert metrics["rejected"] == {"nothing_trainable": 1}
    assert rejects(out)[0]["line"] == 21


def test_too_many_rejects_fail_with_the_reasons(prepare_from: Prepare, tmp_path: Path) -> None:
    rows: list[Row] = pairs(18) + [{"prompt": f"And {n}?", "completion": None} for n in range(2)]
    with pytest.raises(
        InvalidInput, match=r"2 of 20 rows \(10.0%\).*5.0%.*missing_answer 2.*line 19"
    ) as caught:
        prepare_from(jsonl(tmp_path / "rows.jsonl", rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "empty.json"])
def test_an_empty_dataset_is_refused(prepare_from: Prepare, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text({"empty.csv": "prompt,completion\n", "empty.json": "[]"}.get(name, ""))
    with pytest.raises(InvalidInput, match="holds no rows"):
        prepare_from(tmp_path / name)


def test_a_failed_run_leaves_no_split_behind(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("prompt,completion\ncaf\xe9,x\n".encode("cp1252"))
    with pytest.raises(InvalidInput, match="not UTF-8"):
        prepare_from(tmp_path / "rows.csv")
    assert {file.name for file in out.iterdir()} <= {"rejects.jsonl"}


def test_a_limit_ends_the_reading(prepare_from: Prepare, tmp_path: Path) -> None:
    assert prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(50)), max_rows=12).metrics["rows"]["read"] == 12


def test_card_and_statistics_agree_with_the_rows(prepare_from: Prepare, out: Path, tmp_path: Path) -> None:
    facts = prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(60)), licence="CC0-1.0")
    statistics = json.loads((out / "statistics.json").read_text())
    found = splits(out)
    lengths = [row["tokens"] for rows in found.values() for row in rows]
    assert statistics == facts.metrics
    assert statistics["splits"]["train"]["rows"] == len(found["train"])
    assert statistics["tokens"]["max"] == max(lengths)
    histogram = statistics["tokens"]["histogram"]
    assert sum(histogram["counts"]) == 60
    for low, high, count in zip(
        histogram["edges"], histogram["edges"][1:], histogram["counts"], strict=False
    ):
        assert count == sum(low < length <= high for length in lengths)
    card = (out / "README.md").read_text()
    assert "CC0-1.0" in card
    assert f"| train | {len(found['train'])} |" in card
    assert statistics["source_hashes"]["rows.jsonl"] in card


def test_progress_is_told(prepare_from: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tuneline.stage"):
        prepare_from(jsonl(tmp_path / "rows.jsonl", pairs(1200)))
    told = [vars(record)["progress"] for record in caplog.records if hasattr(record, "progress")]
    assert [(p["done"], p["total"]) for p in told if p["unit"] == "rows"] == [(1000, None), (1200, 1200)]
    assert told[-1]["done"] == told[-1]["total"]
