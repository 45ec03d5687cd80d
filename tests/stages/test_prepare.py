from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from registry.artifacts import canonical
from stages.backends import chat
from stages.config.prepare import PrepareConfig, SplitConfig
from stages.contract import Facts, Parent
from stages.data.dedupe import normalized
from stages.data.split import SPLITS
from stages.errors import InvalidInput, MissingPackage
from stages.prepare import prepare

CORPUS = "package:chatterbot-corpus/chatterbot_corpus/data/english"
Row = dict[str, Any]
Run = Callable[..., Facts]


@pytest.fixture(scope="module", autouse=True)
def _tokenizer_read_once(pico_base: Parent) -> Iterator[None]:
    """Reading the tokenizer takes longer than anything else here; `test_chat` reads it as it is read."""
    tokenizer = chat.load_tokenizer(pico_base.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "load_tokenizer", lambda path: tokenizer)
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def run(pico_base: Parent, out: Path) -> Run:
    def run(source: str | Path, **settings: Any) -> Facts:
        name = source if isinstance(source, str) else f"path:{source}"
        return prepare({"base": pico_base}, PrepareConfig(source=name, **settings), out)

    return run


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int) -> list[Row]:
    return [{"prompt": f"What is number {n} times {n * n}?", "completion": f"{n**3}"} for n in range(count)]


def splits(out: Path) -> dict[str, list[Row]]:
    return {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in SPLITS}


def rejects(out: Path) -> list[Row]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def prompts_of(rows: list[Row]) -> set[str]:
    return {normalized(" / ".join(m["content"] for m in row["messages"][:-1])) for row in rows}


def assert_nothing_leaks(found: dict[str, list[Row]]) -> None:
    train, validation, test = (prompts_of(found[name]) for name in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_tech_support_has_ten_questions_and_none_in_two_splits(run: Run, out: Path) -> None:
    metrics = run(f"{CORPUS}/tech_support.yml", near_duplicates=None, max_deduplicated=1).metrics
    found = splits(out)
    assert metrics["rows"] == {"read": 1050, "accepted": 10, "rejected": 0}
    assert metrics["format"] == "chatterbot-dialogue"
    assert_nothing_leaks(found)
    assert sum(len(prompts_of(rows)) for rows in found.values()) == 10
    assert all(found.values())


def test_no_prompt_leaks_where_questions_have_several_answers(run: Run, out: Path) -> None:
    """ai.yml asks most questions more than once, each time with another answer."""
    metrics = run(f"{CORPUS}/ai.yml").metrics
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
    run: Run, out: Path, pico_base: Parent, tmp_path: Path
) -> None:
    run(jsonl(tmp_path / "rows.jsonl", pairs(40)), system="Count.")
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


def test_every_bad_row_is_written_down_with_line_and_reason(run: Run, out: Path, tmp_path: Path) -> None:
    rows: list[Any] = pairs(30)
    rows[3] = {"prompt": "No answer?", "completion": ""}
    rows[7] = ["no object"]
    rows[9] = {"prompt": "Ends <|im_end|> here", "completion": "x"}
    rows[11] = {"prompt": "word " * 600, "completion": "x"}
    source = jsonl(tmp_path / "rows.jsonl", rows)
    source.write_text(source.read_text() + "{broken\n")
    metrics = run(source, max_length=512, max_rejected=0.2).metrics
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


def test_too_many_rejects_fail_with_the_reasons(run: Run, tmp_path: Path) -> None:
    rows: list[Row] = pairs(18) + [{"prompt": f"And {n}?", "completion": None} for n in range(2)]
    with pytest.raises(
        InvalidInput, match=r"2 of 20 rows \(10.0%\).*5.0%.*missing_answer 2.*line 19"
    ) as caught:
        run(jsonl(tmp_path / "rows.jsonl", rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv", "empty.json"])
def test_an_empty_dataset_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text({"empty.csv": "prompt,completion\n", "empty.json": "[]"}.get(name, ""))
    with pytest.raises(InvalidInput, match="holds no rows"):
        run(tmp_path / name)


def test_when_every_row_is_too_long_the_lengths_are_said(run: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} " + "word " * n, "completion": "x"} for n in range(100, 103)]
    with pytest.raises(
        InvalidInput, match=r"every one of the 3 rows.*1\d\d to 1\d\d tokens.*max_length is 64"
    ):
        run(jsonl(tmp_path / "rows.jsonl", rows), max_length=64)


def test_missing_columns_are_named_with_those_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(InvalidInput, match=r"fields text, label.*'auto'"):
        run(tmp_path / "rows.csv")
    with pytest.raises(InvalidInput, match=r"fields text, label.*'instruction'.*instruction and output"):
        run(tmp_path / "rows.csv", format="instruction")


def test_a_failed_run_leaves_no_split_behind(run: Run, out: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("prompt,completion\ncaf\xe9,x\n".encode("cp1252"))
    with pytest.raises(InvalidInput, match="not UTF-8"):
        run(tmp_path / "rows.csv")
    assert {file.name for file in out.iterdir()} <= {"rejects.jsonl"}


def test_a_directory_is_read_file_by_file_and_other_files_are_left_alone(
    run: Run, out: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / ".hidden.jsonl").write_text("broken")
    (data / "README.md").write_text("about")
    (data / "info.yml").write_text("about: it")
    jsonl(data / "deep" / "b.jsonl", pairs(20)[10:])
    jsonl(data / "a.jsonl", pairs(20)[:10])
    metrics = run(data).metrics
    assert list(metrics["source_hashes"]) == ["a.jsonl", "deep/b.jsonl"]
    assert metrics["rows"]["accepted"] == 20


def test_nothing_readable_is_said_with_what_is_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidInput, match=r"no data file found.*\.jsonl.*found notes.txt"):
        run(tmp_path / "notes.txt")
    with pytest.raises(InvalidInput, match="no such file or directory"):
        run(tmp_path / "nowhere.jsonl")


def test_a_package_that_is_not_there_names_the_command(run: Run) -> None:
    with pytest.raises(MissingPackage, match="pip install no-such-corpus"):
        run("package:no-such-corpus/data/*.jsonl")
    with pytest.raises(InvalidInput, match=r"no file of chatterbot-corpus .* matches 'english/nope.yml'"):
        run("package:chatterbot-corpus/english/nope.yml")


def test_a_hub_dataset_out_of_reach_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(InvalidInput, match=r"hub:org/name@main: .*Name or service not known.*path:DIRECTORY"):
        run("hub:org/name@main")


def test_a_hub_dataset_is_read_at_the_commit_that_its_branch_names(
    run: Run, monkeypatch: pytest.MonkeyPatch
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
    metrics = run("hub:org/name@main", hub_config="small", hub_split="train_sft").metrics
    assert asked == [("org/name", "small", "train_sft", commit)]
    assert metrics["unused_fields"] == {"picture": 20}
    assert metrics["source_hashes"] == {"org/name (train_sft)": commit}
    assert metrics["rows"]["accepted"] == 20


def test_a_local_directory_is_not_taken_for_a_hub_dataset(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="is a local directory; write path:org/name"):
        run("hub:org/name@main")


def test_duplicates_are_counted_apart(run: Run, tmp_path: Path) -> None:
    long = "Tell me in a few words what the weather in the north of the country will be like tomorrow"
    rows = [
        *pairs(20),
        {"prompt": long, "completion": "Cold, and in the evening there will be some snow on the hills."},
        {
            "prompt": long.upper(),
            "completion": "cold,  and in the evening there will be some snow on the hills.",
        },
        {
            "prompt": long,
            "completion": "Cold, and in the evening there will be some snow on the hills.",
        },
        {
            "prompt": long + " please",
            "completion": "Cold, and in the evening there will be some snow on the hills.",
        },
    ]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    assert run(source).metrics["dropped"] == {"exact_duplicates": 1, "near_duplicates": 2}
    assert run(source, near_duplicates=None).metrics["dropped"] == {
        "exact_duplicates": 1,
        "near_duplicates": 0,
    }


def test_exact_duplicates_are_exact(run: Run, out: Path, tmp_path: Path) -> None:
    """Indentation, case and x² are what some data teach; only the kind of line end is no difference."""
    kinds = ["if a:\n  b", "if a:\n    b", "If a:\n  b", "x² + 1", "x2 + 1", "a\r\nb", "ﬁne", "fine"]
    rows = [{"prompt": f"Write {n}.", "completion": kind} for n in range(4) for kind in kinds]
    alike = [{**row, "completion": end.join("ab")} for row in rows[5::8] for end in ("\r", "\n")]
    source = jsonl(tmp_path / "rows.jsonl", rows + alike)
    dropped = run(source, near_duplicates=None).metrics["dropped"]
    assert dropped == {"exact_duplicates": 8, "near_duplicates": 0}
    assert {row["messages"][-1]["content"] for rows in splits(out).values() for row in rows} == set(kinds)
    before = {name: (out / f"{name}.parquet").read_bytes() for name in SPLITS}
    run(jsonl(tmp_path / "turned.jsonl", rows[::-1]), near_duplicates=None)
    assert before == {name: (out / f"{name}.parquet").read_bytes() for name in SPLITS}


def test_a_loss_of_more_than_the_limit_stops_the_run(run: Run, tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(40))
    near = [{"prompt": f"{long} {n}", "completion": "Yes."} for n in range(3)]
    source = jsonl(tmp_path / "rows.jsonl", [*pairs(10), *pairs(2), *near])
    with pytest.raises(
        InvalidInput,
        match=r"4 of 15 good rows \(26.7%\) repeat an earlier row \(2 exact duplicates, 2 near duplicates\), "
        r"prepare.max_deduplicated is 20.0%; for example rows.jsonl line 11, rows.jsonl line 12, "
        r"rows.jsonl line 14; set prepare.near_duplicates to null .*, or prepare.max_deduplicated to 0.27 if",
    ):
        run(source)
    assert run(source, max_deduplicated=0.27).metrics["rows"]["accepted"] == 11
    assert run(source, near_duplicates=None).metrics["rows"]["accepted"] == 13
    with pytest.raises(InvalidInput, match=r"13.3%") as caught:
        run(source, near_duplicates=None, max_deduplicated=0.1)
    assert "near_duplicates to null" not in str(caught.value)


def test_rows_with_one_long_instruction_are_kept(run: Run, tmp_path: Path) -> None:
    rules = " ".join(f"Rule {k}: a message of matter {k} has the label l{k}." for k in range(9))
    rows = [
        {"instruction": rules, "input": f"My lamp number {n} is broken", "output": f"l{n % 3}"}
        for n in range(30)
    ]
    metrics = run(jsonl(tmp_path / "rows.jsonl", rows)).metrics
    assert metrics["dropped"] == {"exact_duplicates": 0, "near_duplicates": 0}


def test_what_becomes_of_every_field_is_said_once(
    run: Run, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "id": n, "tags": [] if n else ["x"], "\ud800": 1} for n, row in enumerate(pairs(40))]
    rows[7]["tool_calls"] = [{"id": "1"}]
    with caplog.at_level(logging.INFO, logger="tuneline.stage"):
        metrics = run(jsonl(tmp_path / "rows.jsonl", rows)).metrics
    assert metrics["unused_fields"] == {"'\\ud800'": 39, "id": 39, "tags": 1}
    assert metrics["rejected"] == {"unsupported_field": 1}
    assert rejects(out)[0]["reason"] == "the row has tool_calls: tool calling is not trained"
    told = [vars(record)["progress"] for record in caplog.records if hasattr(record, "progress")]
    assert [event["not_used"] for event in told if "not_used" in event] == ["'\\ud800', id, tags"]
    assert "| `id` | 39 |" in (out / "README.md").read_text("utf-8")


def test_fields_whose_names_are_data_have_an_end(run: Run, tmp_path: Path) -> None:
    rows = [{**row, f"key {n}": 1} for n, row in enumerate(pairs(60))]
    unused = run(jsonl(tmp_path / "rows.jsonl", rows)).metrics["unused_fields"]
    assert len(unused) == 41
    assert unused["(other fields)"] == 20


@pytest.mark.parametrize("name", ["prompt", "\ud800"])
def test_names_that_cannot_be_printed_are_told_all_the_same(run: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="the rows have the fields") as caught:
        run(jsonl(tmp_path / "rows.jsonl", [{name: "x", "a\nb": 2, "c" * 10_000: 3}]))
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


def test_a_file_name_that_is_no_text_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / os.fsdecode(b"\xff.jsonl"), pairs(20))
    with pytest.raises(InvalidInput, match=r"the file name '\\udcff.jsonl' is not UTF-8; rename the file"):
        run(tmp_path / "data")


@pytest.mark.parametrize("text", ["many words and more ", "a", "日本", "x!", "\u0301"])
def test_a_row_far_too_long_is_refused_by_its_beginning(
    run: Run, pico_base: Parent, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Counted in characters that are tokenized, not in seconds."""
    seen: list[int] = []
    tokenizer = chat.load_tokenizer(pico_base.path)
    real = type(tokenizer).__call__

    def counting(self: Any, given: str, *more: Any, **options: Any) -> Any:
        seen.append(len(given))
        return real(self, given, *more, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counting)
    many = text * (1_000_000 // len(text))
    turns = [{"role": role, "content": f"{text} {n}"} for n in range(5_000) for role in ("user", "assistant")]
    source = jsonl(tmp_path / "rows.jsonl", [*pairs(20), {"prompt": many, "completion": "x"}])
    with source.open("a") as stream:
        stream.write(json.dumps({"prompt": turns[:-1], "completion": turns[-1:]}))
    assert run(source, max_length=64, max_rejected=0.2).metrics["rejected"] == {"too_long": 2}
    assert max(seen) < 64 * 8 * 64
    reasons = [
        re.fullmatch(r"about (\d+) tokens, more than max_length 64", r["reason"]) for r in rejects(out)
    ]
    right = len(tokenizer(many[:100_000])["input_ids"]) * len(many) / 100_000
    assert reasons[0]
    assert reasons[1]
    assert int(reasons[0][1]) == pytest.approx(right, rel=0.3)


def test_a_long_row_of_few_tokens_is_not_refused(run: Run, out: Path, tmp_path: Path) -> None:
    """SmolLM2 has tokens for long runs of spaces: 6,000 characters, and fewer tokens than the limit."""
    spaced = [{"prompt": f"a{' ' * 6000}{n}", "completion": "x"} for n in range(3)]
    run(jsonl(tmp_path / "rows.jsonl", [*pairs(20), *spaced]), max_length=256)
    assert rejects(out) == []
    assert max(row["tokens"] for rows in splits(out).values() for row in rows) > 90


def test_topics_are_taught_as_json(run: Run, out: Path) -> None:
    metrics = run(f"{CORPUS}/*.yml", format="chatterbot-topic", max_length=256).metrics
    rows = [row for rows in splits(out).values() for row in rows]
    topics = {json.loads(row["messages"][-1]["content"])["topic"] for row in rows}
    assert len(topics) == 21
    assert len(prompts_of(rows)) == len(rows) == metrics["rows"]["accepted"] > 1500
    assert all(len(row["messages"][0]["content"].split()) >= 3 for row in rows)
    assert metrics["dropped"]["short_utterances"] > 100
    assert metrics["dropped"]["ambiguous_utterances"] > 0
    assert metrics["dropped"]["repeated_utterances"] > 2000
    assert metrics["licence"] == "BSD License"


def test_topics_can_be_chosen_and_a_typo_is_named(run: Run, out: Path) -> None:
    run(f"{CORPUS}/*.yml", format="chatterbot-topic", topics=("food", "money"))
    answers = {row["messages"][-1]["content"] for rows in splits(out).values() for row in rows}
    assert answers == {'{"topic": "food"}', '{"topic": "money"}'}
    with pytest.raises(InvalidInput, match=r"topics: foood not in the corpus, which has ai, .*food"):
        run(f"{CORPUS}/*.yml", format="chatterbot-topic", topics=("foood",))


def test_a_limit_ends_the_reading(run: Run, tmp_path: Path) -> None:
    assert run(jsonl(tmp_path / "rows.jsonl", pairs(50)), max_rows=12).metrics["rows"]["read"] == 12


def test_card_and_statistics_agree_with_the_rows(run: Run, out: Path, tmp_path: Path) -> None:
    facts = run(jsonl(tmp_path / "rows.jsonl", pairs(60)), licence="CC0-1.0")
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


def test_progress_is_told(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tuneline.stage"):
        run(jsonl(tmp_path / "rows.jsonl", pairs(1200)))
    told = [vars(record)["progress"] for record in caplog.records if hasattr(record, "progress")]
    assert [(p["done"], p["total"]) for p in told if p["unit"] == "rows"] == [(1000, None), (1200, 1200)]
    assert told[-1]["done"] == told[-1]["total"]


@pytest.mark.parametrize("source", ["data.jsonl", "path:", "s3:bucket/x"])
def test_a_source_of_no_known_kind_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="not a data source; expected path:"):
        PrepareConfig(source=source)


def test_topics_belong_to_their_format() -> None:
    with pytest.raises(ValueError, match="chatterbot-topic, not to auto"):
        PrepareConfig(source="path:x.yml", topics=("ai",))
