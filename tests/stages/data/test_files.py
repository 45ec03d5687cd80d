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
from stages.data.source import drawn
from stages.data.source_row import SourceRow
from stages.errors import InvalidInput

ROWS = [{"prompt": "Is it on?", "completion": "Yes."}, {"prompt": "é日本 😀", "completion": "a,b\nc"}]


def rows(path: Path) -> list[SourceRow]:
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
    nested = [{"messages": [{"role": "user", "content": "é"}]}, {"messages": []}]
    plain = tmp_path / "plain"
    pq.write_table(pa.Table.from_pylist(nested), plain)
    found = rows(write(tmp_path / name, plain.read_bytes()))
    assert [(record.line, record.row) for record in found] == [(1, nested[0]), (2, nested[1])]


def odd_table(tmp_path: Path, names: list[str]) -> Path:
    """Two rows; the columns after the first are dates beyond the year 9999 and times of no known zone."""
    beyond = pa.array([10_000_000, 0], pa.date32())
    nowhere = pa.array([0, 1], pa.timestamp("us", "Nowhere/City"))
    values = [pa.array(["Is it on?", "Is it off?"]), *[beyond, nowhere, pa.array(["Yes.", "No."])]]
    pq.write_table(pa.Table.from_arrays(values, names=names), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_parquet_columns_that_no_format_uses_are_named_and_not_read(tmp_path: Path) -> None:
    found = rows(odd_table(tmp_path, ["prompt", "day", "time", "completion"]))
    assert [r.row for r in found] == [
        {"prompt": "Is it on?", "completion": "Yes."}, {"prompt": "Is it off?", "completion": "No."},
    ]  # fmt: skip
    assert {r.unread for r in found} == {("day", "time")}


def test_a_value_that_python_has_no_word_for_rejects_its_row(tmp_path: Path) -> None:
    found = rows(odd_table(tmp_path, ["prompt", "context", "time", "completion"]))
    assert [(r.line, r.row is None) for r in found] == [(1, True), (2, False)]
    assert str(found[0].error).startswith("a value cannot be read: ")
    found = rows(odd_table(tmp_path, ["prompt", "day", "context", "completion"]))
    assert [r.row for r in found] == [None, None]
    text = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.Table.from_arrays([text], names=["prompt"]), tmp_path / "b.parquet")
    assert [(r.line, r.row) for r in rows(tmp_path / "b.parquet")] == [(1, {"prompt": "fine"}), (2, None)]


def test_a_column_that_is_there_twice_is_named_where_it_matters(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="duplicate column completion"):
        rows(write(tmp_path / "a.csv", "prompt,completion,completion\n1,2,3\n"))
    with pytest.raises(InvalidInput, match="duplicate column prompt"):
        rows(odd_table(tmp_path, ["prompt", "day", "time", "prompt"]))
    assert len(rows(odd_table(tmp_path, ["prompt", "day", "day", "completion"]))) == 2
    found = rows(write(tmp_path / "b.csv", "prompt,,completion,\n1,2,3,4\n"))
    assert [r.row for r in found] == [{"prompt": "1", "": "4", "completion": "3"}]


@pytest.mark.parametrize("name", ["a.jsonl", "b.json", "c.jsonl"])
def test_a_key_that_stands_twice_rejects_its_row(tmp_path: Path, name: str) -> None:
    text = '{"a": 1}\n{"a": [{"b": 1, "b": 2}]}\n{"a": 2}'
    content = {"b.json": f"[{text.replace(chr(10), ',' + chr(10))}]", "c.jsonl": text.replace("\n", "\r")}
    found = rows(write(tmp_path / name, content.get(name, text)))
    assert [(r.line, r.row) for r in found] == [(1, {"a": 1}), (2, None), (3, {"a": 2})]
    assert "the key b is there twice" in str(found[1].error)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_csv_has_the_line_ends_of_any_system(tmp_path: Path, end: str) -> None:
    text = 'prompt,completion\nIs it on?,Yes.\n"two\nlines",x\nonly one\n'.replace("\n", end)
    found = rows(write(tmp_path / "a.csv", text))
    assert [(r.line, r.row) for r in found] == [
        (2, {"prompt": "Is it on?", "completion": "Yes."}),
        (3, {"prompt": f"two{end}lines", "completion": "x"}),
        (5, None),
    ]


def test_a_csv_header_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"a.csv: line 1: the header is malformed CSV: .*expected"):
        rows(write(tmp_path / "a.csv", '"prompt"x,completion\n1,2\n'))


@pytest.mark.parametrize("digits", ["9" * 5000, "-" + "9" * 5000, "9" * 400])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_number_too_long_for_python_is_read(tmp_path: Path, name: str, digits: str) -> None:
    row = f'{{"n": {digits}}}'
    found = rows(write(tmp_path / name, row if name == "a.jsonl" else f"[{row}]"))
    assert [r.row for r in found] == [{"n": float(digits)}]


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    deep = '{"a": ' + "[" * 200_000
    found = rows(write(tmp_path / "a.jsonl", f'{deep}\n{{"a": 1}}\n'))
    assert [r.row for r in found] == [None, {"a": 1}]
    with pytest.raises(InvalidInput, match="line 1: the row is nested too deeply"):
        rows(write(tmp_path / "a.json", f"[{deep}"))
    with pytest.raises(InvalidInput, match=r"malformed YAML: more than 100 levels"):
        rows(write(tmp_path / "a.yml", "[" * 200_000))


def test_bad_lines_come_with_their_number_and_the_others_stay(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": \n[1]\n{"a": 2}\n'))
    assert [(r.line, r.row) for r in found] == [(1, {"a": 1}), (3, None), (4, None), (5, {"a": 2})]
    assert str(found[1].error).startswith("malformed JSON")
    assert "is a list, expected an object" in str(found[2].error)


def test_rows_of_one_line_have_a_place_each_and_are_drawn_each(tmp_path: Path) -> None:
    rows = [{"prompt": f"Is {n} odd?", "completion": "?"} for n in range(200)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    read = list(read_file(tmp_path / "rows.json", "rows.json"))
    assert [row.place for row in read[:2]] == ["rows.json line 1", "rows.json line 1, row 2"]
    assert 70 <= len(list(drawn(iter(read), 0.5, seed=0))) <= 130


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


printed = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
pieces = st.sampled_from([
    '"', ",", ";", "\r", "\n", "\t", "{", "}", "[", "]", ":", "\\", "- ",
    "&a", "*a", "conversations", "1e999", "null", "\\ud800", "\ufeff", "\0",
])  # fmt: skip
damaged = st.lists(st.one_of(pieces, printed), max_size=30).map(lambda parts: "".join(parts).encode())


def assert_rows_or_one_message(path: Path) -> None:
    found, message = [], ""
    try:
        found = rows(path)
    except InvalidInput as error:
        message = str(error)
    assert "\n" not in message
    assert all(record.row is not None or record.error for record in found)


@settings(deadline=None, database=None, max_examples=150)
@given(name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.yml", "a.parquet", "a.csv.gz"]),
       content=st.one_of(damaged, st.binary(max_size=60)))  # fmt: skip
def test_whatever_a_file_holds_it_gives_rows_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp() / name, content)
    assert_rows_or_one_message(path)


@settings(deadline=None, database=None, max_examples=60)
@given(at=st.integers(0, 10_000), bytes_=st.binary(min_size=1, max_size=8), packed=st.booleans())
def test_a_damaged_parquet_gives_rows_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, at: int, bytes_: bytes, packed: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    pq.write_table(pa.Table.from_pylist(ROWS * 3), folder / "sound")
    content = bytearray((folder / "sound").read_bytes())
    at %= len(content)
    content[at : at + len(bytes_)] = bytes_
    path = folder / ("cut.parquet.gz" if packed else "cut.parquet")
    path.write_bytes(gzip.compress(bytes(content), 1) if packed else bytes(content))
    assert_rows_or_one_message(path)


def test_chatterbot_texts_stay_as_written(tmp_path: Path) -> None:
    text = "conversations:\n- - In which year?\n  - 1963\n- In a game of\n- - ok?\n  - yes\n"
    found = rows(write(tmp_path / "trivia.yml", text))
    assert [(r.line, r.row) for r in found] == [
        (2, {"topic": "trivia", "lines": ["In which year?", "1963"]}),
        (4, None),
        (5, {"topic": "trivia", "lines": ["ok?", "yes"]}),
    ]
    with pytest.raises(InvalidInput, match="not a chatterbot corpus"):
        rows(write(tmp_path / "other.yml", "a: 1\n"))
    with pytest.raises(InvalidInput, match=r"malformed YAML.*line 1"):
        rows(write(tmp_path / "bad.yml", "a: [1\n"))
