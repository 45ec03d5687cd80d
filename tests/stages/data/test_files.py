from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data import json_stream
from stages.data.files import read_file
from stages.data.record import Record
from stages.errors import InvalidInput

ROWS = [{"prompt": "Is it on?", "completion": "Yes."}, {"prompt": "é日本 😀", "completion": "a,b\nc"}]


def rows(path: Path) -> list[Record]:
    return list(read_file(path, path.name))


def write(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


JSONL = "\n".join(json.dumps(row) for row in ROWS)
CONTENT = {
    "a.jsonl": JSONL,
    "a.jsonl.gz": JSONL,
    "a.json": json.dumps(ROWS, indent=1),
    "b.json": json.dumps({"version": 1, "data": ROWS}),
    "c.json": json.dumps({"id-1": ROWS[0], "id-2": ROWS[1]}),
    "d.json": JSONL,
    "a.json.gz": json.dumps(ROWS),
    "a.csv": 'prompt,completion\nIs it on?,Yes.\né日本 😀,"a,b\nc"\n',
    "b.csv": '\ufeffprompt;completion\r\nIs it on?;Yes.\r\né日本 😀;"a,b\nc"\r\n',
    "a.csv.gz": 'prompt,completion\nIs it on?,Yes.\né日本 😀,"a,b\nc"\n',
}


@pytest.mark.parametrize("name", CONTENT)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert [record.row for record in rows(write(tmp_path / name, CONTENT[name]))] == ROWS


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet_keeps_nested_rows(tmp_path: Path, name: str) -> None:
    nested = [{"messages": [{"role": "user", "content": "é"}], "n": 1}, {"messages": [], "n": 2}]
    plain = tmp_path / "plain"
    pq.write_table(pa.Table.from_pylist(nested), plain)
    found = rows(write(tmp_path / name, plain.read_bytes()))
    assert [(record.line, record.row) for record in found] == [(1, nested[0]), (2, nested[1])]


def test_bad_lines_come_with_their_number_and_the_others_stay(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": \n[1]\n{"a": 2}\n'))
    assert [(r.line, r.row) for r in found] == [(1, {"a": 1}), (3, None), (4, None), (5, {"a": 2})]
    assert str(found[1].error).startswith("malformed JSON")
    assert "is a list, expected an object" in str(found[2].error)


def test_csv_rows_with_other_fields_than_the_header_come_as_errors(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.csv", 'p,c\n"two\nlines",x\nonly one\n\n1,2\n"a"b,c\n3,4\n'))
    assert [(r.line, r.row) for r in found if r.row] == [
        (2, {"p": "two\nlines", "c": "x"}),
        (6, {"p": "1", "c": "2"}),
        (8, {"p": "3", "c": "4"}),
    ]
    errors = {r.line: str(r.error) for r in found if not r.row}
    assert errors[4] == "the row has 1 fields, the header names 2"
    assert errors[7].startswith("malformed CSV")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz"])
def test_another_encoding_is_named_with_line_byte_and_remedy(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name, '{"prompt": 1}\n{"caf\N{LATIN SMALL LETTER E WITH ACUTE}": 2}\n'.encode("cp1252")
    )
    with pytest.raises(InvalidInput, match=r"line 2, byte 6 .*\(0xe9\) is not UTF-8.*iconv -f WINDOWS-1252"):
        rows(path)


def test_utf16_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"line 1, byte 1 .*iconv -f UTF-16"):
        rows(write(tmp_path / "a.csv", "prompt,completion\n".encode("utf-16")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a": }\n]', "line 2: malformed JSON"),
        ('[{"a": 1},\n', "line 2: malformed JSON: Expecting value"),
        ('[{"a": 1}\n {"a": 2}]', "line 2: malformed JSON: expected , or ]"),
        ('[{"a": "never ends', "line 1: malformed JSON: Unterminated string"),
        ("[]\n[]", "line 2: something follows"),
        ("3", "line 1: expected an array of rows"),
        ('{"stuff": [1]}', "the array under 'stuff'"),
    ],
)
def test_a_malformed_document_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        rows(write(tmp_path / "a.json", text))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, database=None)
@given(
    document=st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=5),
    chunk=st.integers(1, 40),
    indent=st.none() | st.integers(0, 20),
    escape=st.booleans(),
)
def test_a_document_cut_anywhere_reads_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, document: Any, chunk: int, indent: int | None, escape: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=escape), "utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert [record.row for record in json_stream.read_json(path, "a")] == document


def test_json_streams_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    row = json.dumps({"prompt": "x" * 1000, "completion": "y" * 1000})
    path = write(tmp_path / "a.json", "[" + ",".join([row] * 10_000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in read_file(path, "a")) == 10_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 20_000_000
    assert peak < 8_000_000


def test_a_damaged_archive_and_a_damaged_parquet_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(InvalidInput, match="gzip archive is damaged"):
        rows(tmp_path / "a.jsonl.gz")
    with pytest.raises(InvalidInput, match="not a readable Parquet file"):
        rows(write(tmp_path / "a.parquet", b"PAR1 no"))


def test_chatterbot_texts_stay_as_written(tmp_path: Path) -> None:
    text = "conversations:\n- - In which year?\n  - 1963\n- In a game of\n- - ok?\n  - yes\n"
    found = rows(write(tmp_path / "trivia.yml", text))
    assert [(r.line, r.row) for r in found] == [
        (2, {"topic": "trivia", "lines": ["In which year?", "1963"]}),
        (4, None),
        (5, {"topic": "trivia", "lines": ["ok?", "yes"]}),
    ]
    with pytest.raises(InvalidInput, match="no chatterbot corpus"):
        rows(write(tmp_path / "other.yml", "a: 1\n"))
    with pytest.raises(InvalidInput, match=r"malformed YAML.*line 1"):
        rows(write(tmp_path / "bad.yml", "a: [1\n"))
