"""What a dataset holds is counted and located: what is found, what only looks like it, how long it takes."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from stages.data.report.language import UNTOLD, identifier
from stages.data.report.report import MOST_ROWS, report
from stages.data.report.sensitive import KINDS, found
from stages.data.report.similar import similar
from tests.seconds import seconds

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PLACED = {
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow",
    "AWS access key": "it is AKIA" + "IOSFODNN7EXAMPLE.",
    "GitHub token": "ghp_" + LETTERS[:36],
    "GitLab token": "glpat-" + LETTERS[:20],
    "Hugging Face token": "hf_" + LETTERS[:34],
    "OpenAI or Anthropic key": "sk-proj-" + LETTERS[:40],
    "Google API key": "AIza" + LETTERS[:35],
    "Slack token": "xoxb-" + LETTERS[:24],
    "Stripe key": "sk_live_" + LETTERS[:24],
    "JSON Web Token": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:20] + "." + LETTERS[:20],
    "password in a URL": "postgresql://ada:hunter2@db.internal/x",
    "password after its name": 'password = "hunter2hunter2"',
    "e-mail address": "Write to ada.lovelace+bills@mail.analytical.io, please",
    "phone number": "Call +49 (30) 901820 or come by",
    "payment card": "4111 1111 1111 1111",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "US social security number": "078-05-1120",
    "public IP address": "from 8.8.8.8 last night",
}
LIKE_THEM = [
    "ada@example.com and bob@host.test",
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "DE89 3704 0044 0532 0130 01",
    "10.0.0.1, 127.0.0.1, 999.1.1.1 and version 1.2.3.4.5",
    "000-12-3456 and 2026-11-30",
    "+1 2 3",
    "the password is a secret: ask",
    "https://example.org/a:b@c",
    "sk-short, AKIA12, ghp_no",
    "order 4111-1111-1111-1111-1111-1111",
    "+49 1",
]


def test_each_kind_is_found() -> None:
    assert set(PLACED) == {kind.name for kind in KINDS}
    for name, text in PLACED.items():
        assert {kind.name: number for kind, number in found(text)} == {name: 1}, text


@pytest.mark.parametrize("text", LIKE_THEM)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert list(found(text)) == []


@pytest.mark.parametrize(
    "text",
    ["1 " * 500_000, "a@" * 500_000, "eyJ" * 330_000, "DE00" * 250_000, "a.a@a." * 170_000, "+1(" * 300_000],
)
@pytest.mark.timeout(seconds(60))
def test_a_hostile_text_takes_time_in_proportion(text: str) -> None:
    list(found(text))


def test_languages_are_told_where_they_can_be() -> None:
    language = identifier()
    told = [
        language(text)
        for text in (
            "Where is my parcel? It should have come on Monday.",
            "Bitte senden Sie mir die Rechnung.",
            "42",
            "",
        )
    ]
    assert told == ["en", "de", UNTOLD, UNTOLD]


def test_a_common_frame_makes_no_likeness() -> None:
    frame = "You answer for the town's bus company in one short sentence. "
    train = [
        frame + f"When does line {n} leave from stop {n * 7} on {day}?" for n, day in enumerate("abcdefgh")
    ]
    test = [
        frame + "Is there a bus to the airport at night?",
        frame + "When does line 3 leave from stop 21 on d?",
    ]
    number, pairs = similar(train, test, 0.9, 5)
    assert (number, [(pair.train, pair.test) for pair in pairs]) == (1, [(4, 2)])
    assert similar([], test, 0.9, 5) == similar(train, [], 0.9, 5) == (0, [])


def _write(file: Path, chats: list[tuple[str, str]]) -> None:
    messages = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in chats
    ]
    counts = list(range(10, 10 + len(chats)))
    table = pyarrow.table({"messages": messages, "tokens": counts, "trainable": [5] * len(chats)})
    pyarrow.parquet.write_table(table, file)


def test_a_report_says_where_and_not_what(tmp_path: Path) -> None:
    asked = "Which form do I fill in to move my account to another branch?"
    _write(tmp_path / "train.parquet", [(asked, "Form nine."), (f"Mine is {PLACED['IBAN']}", PLACED["IBAN"])])
    _write(tmp_path / "test.parquet", [("What does it cost?", "Nothing at all."), (asked, "Form nine.")])
    told = report(tmp_path)
    assert [(s.split, s.rows, s.read, s.longest_tokens) for s in told.splits] == [
        ("train", 2, 2, 11),
        ("test", 2, 2, 11),
    ]
    (iban,) = told.sensitive
    assert (iban.kind, iban.secret, iban.rows, iban.occurrences) == ("IBAN", False, 1, 2)
    assert iban.places == [("train", 2, "user")]
    assert "3704" not in repr(told)
    assert (told.similar, [(p.train, p.test) for p in told.pairs]) == (1, [(1, 2)])


def test_the_answer_that_is_not_preferred_is_read_too(tmp_path: Path) -> None:
    answers = [
        {"role": "assistant", "content": text} for text in ("Four.", f"Ask {PLACED['AWS access key']}")
    ]
    row = {"messages": [{"role": "user", "content": "Two and two?"}, answers[0]], "rejected": answers[1]}
    table = pyarrow.Table.from_pylist([{**row, "tokens": 10, "trainable": 3}])
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    (key,) = report(tmp_path).sensitive
    assert key.places == [("train", 1, "assistant")]


def test_an_empty_split_and_no_split_are_reported(tmp_path: Path) -> None:
    assert report(tmp_path).splits == []
    _write(tmp_path / "train.parquet", [("Is it on?", "Yes.")])
    schema = pyarrow.parquet.read_schema(tmp_path / "train.parquet")
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "test.parquet")
    train, test = report(tmp_path).splits
    assert (train.rows, test.rows, test.longest_tokens, test.main_languages) == (1, 0, 0, "")


def test_a_large_split_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_ROWS >= 10_000
    monkeypatch.setattr("stages.data.report.report.MOST_ROWS", 2)
    _write(tmp_path / "train.parquet", [("Is it on?", "Yes.")] * 3)
    (train,) = report(tmp_path).splits
    assert (train.rows, train.read) == (3, 2)
