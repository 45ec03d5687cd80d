"""Rows of files: JSON lines, JSON, CSV, Parquet and chatterbot YAML, each also as .gz."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from stages.data.json_stream import read_json
from stages.data.record import MAX_ROW_BYTES, Record, Records, as_record
from stages.data.text import lines, opened
from stages.errors import InvalidInput

_PARQUET_ROWS = 1024


def data_suffix(name: str) -> str:
    """The suffix that tells a data file's kind (without .gz); empty where the name has none we read."""
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in READERS else ""


def read_file(path: Path, name: str) -> Records:
    """Rows of one file, streamed; bad rows come as records with an error.

    Raises `InvalidInput` when the file as a whole cannot be read: encoding, structure, archive.
    """
    return READERS[data_suffix(path.name)](path, name)


def _read_lines(path: Path, name: str) -> Records:
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            yield as_record(name, number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield Record(name, number, None, f"malformed JSON: {error}")


def _read_json(path: Path, name: str) -> Records:
    """A JSON document; or JSON lines under the name .json, as many tools write them."""
    return _read_lines(path, name) if _is_json_lines(path) else read_json(path, name)


def _is_json_lines(path: Path) -> bool:
    with opened(path) as stream:
        first, second = stream.readline(2**20), stream.readline(2**20)
    try:
        return bool(second.strip()) and isinstance(json.loads(first), dict)
    except ValueError:  # also UnicodeDecodeError, which the reader will place
        return False


def _read_csv(path: Path, name: str) -> Records:
    # The module's limit of 128 KiB a field would refuse long documents; it has no other place to be set.
    csv.field_size_limit(MAX_ROW_BYTES)
    content = lines(path)
    first = next(content, "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(_chain(first, content), delimiter=delimiter, strict=True)
    header = [field.strip() for field in next(reader, [])]
    if len(set(header)) != len(header):
        raise InvalidInput(f"{name}: the header names a column twice: {', '.join(header)}")
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(name, number, None, f"malformed CSV: {error}")
            continue
        if len(fields) == len(header):
            yield Record(name, number, dict(zip(header, fields, strict=True)))
        elif fields:
            yield Record(
                name, number, None, f"the row has {len(fields)} fields, the header names {len(header)}"
            )


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _read_parquet(path: Path, name: str) -> Records:
    import pyarrow
    import pyarrow.parquet

    with opened(path) as stream, tempfile.TemporaryFile() as unpacked:
        source: IO[bytes] = stream
        if path.suffix == ".gz":  # Parquet is read from its end, which a gzip stream cannot do
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
            source = unpacked
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(source) as table:
                for batch in table.iter_batches(_PARQUET_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield Record(name, number, row)
        except pyarrow.ArrowException as error:
            raise InvalidInput(f"{name}: not a readable Parquet file after row {number}: {error}") from error


def _read_chatterbot(path: Path, name: str) -> Records:
    """Rows {topic, lines} of a chatterbot corpus file; texts stay as written ("1963" is no number)."""
    import yaml

    try:
        with opened(path) as stream:
            document = yaml.compose(stream, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{name}: malformed YAML: {' '.join(str(error).split())}") from error
    conversations = None
    if isinstance(document, yaml.MappingNode):
        conversations = next((v for k, v in document.value if k.value == "conversations"), None)
    if not isinstance(conversations, yaml.SequenceNode):
        raise InvalidInput(f"{name}: no chatterbot corpus; expected a list under the key `conversations`")
    topic = Path(name.removesuffix(".gz")).stem
    for node in conversations.value:
        number = node.start_mark.line + 1
        said = node.value if isinstance(node, yaml.SequenceNode) else []
        if said and all(isinstance(line, yaml.ScalarNode) for line in said):
            yield Record(name, number, {"topic": topic, "lines": [line.value for line in said]})
        else:
            yield Record(name, number, None, "the conversation is not a list of lines")


YAML = (".yml", ".yaml")
READERS: dict[str, Callable[[Path, str], Records]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    **dict.fromkeys(YAML, _read_chatterbot),
}
