"""Rows of files: JSON lines, JSON, CSV, Parquet and chatterbot YAML; texts; each also as .gz."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from stages.data.json_stream import read_json
from stages.data.json_values import Decoder
from stages.data.source_row import MAX_ROW_BYTES, SourceRow, SourceRows, as_source_row
from stages.data.tables import read_parquet, wanted_columns
from stages.data.text import lines, opened, text
from stages.errors import InvalidInput

_MAX_DEPTH = 100
_MAX_CORPUS = 64 * 2**20  # bytes: YAML is parsed as a whole, into some 100 times its size


def data_suffix(name: str) -> str:
    """The suffix that tells a data file's kind (without .gz); empty where the name has none we read."""
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in READERS else ""


def read_file(path: Path, name: str, columns: Collection[str] = ()) -> SourceRows:
    """Rows of one file, streamed; bad rows come with an error.

    Of a Parquet file only what some format uses is read, and the `columns` that are named.
    Raises `InvalidInput` when the file as a whole cannot be read: encoding, structure, archive.
    """
    suffix = data_suffix(path.name)
    return read_parquet(path, name, columns) if suffix == ".parquet" else READERS[suffix](path, name)


def is_document(name: str) -> bool:
    """Whether a file is a text, by its name (without .gz): one document and no rows."""
    return Path(name.removesuffix(".gz")).suffix in DOCUMENTS


def read_document(path: Path, name: str) -> SourceRows:
    """A text file as the one row {text} that it is, its line ends as \\n.

    Raises `InvalidInput` where it is not UTF-8, or damaged, or larger than a row may be.
    """
    with text(path, newline=None) as stream:
        content = stream.read(MAX_ROW_BYTES + 1)
    if len(content) > MAX_ROW_BYTES:
        raise InvalidInput(
            f"{name}: exceeds {MAX_ROW_BYTES >> 20} MiB, and is one document; split it into several files"
        )
    yield SourceRow(name, 1, {"text": content})


def _read_lines(path: Path, name: str) -> SourceRows:
    decoder, begun = Decoder(), False
    for number, line in enumerate(lines(path), 1):
        if not (whole := line.strip()):
            continue
        if not begun and (whole in ("[", "{") or whole.startswith("[{")):
            raise InvalidInput(
                f"{name}: line {number} begins a JSON document, and .jsonl has one object in each line; "
                f"name the file {name.replace('.jsonl', '.json')}"
            )
        begun = True
        try:
            yield as_source_row(name, number, decoder.whole(line))
        except RecursionError:
            yield SourceRow(name, number, None, "malformed JSON: the row is nested too deeply")
        except ValueError as error:
            yield SourceRow(name, number, None, f"malformed JSON: {error}")


def _read_json(path: Path, name: str) -> SourceRows:
    """A JSON document; or JSON lines under the name .json, as many tools write them."""
    return _read_lines(path, name) if _is_json_lines(path) else read_json(path, name)


def _is_json_lines(path: Path) -> bool:
    with opened(path) as stream:
        begun = [line for line in stream.read(2**21).splitlines() if line.strip()]
    try:
        return len(begun) > 1 and isinstance(Decoder().whole(begun[0].decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):  # also UnicodeDecodeError, which the reader will place
        return False


def _read_csv(path: Path, name: str) -> SourceRows:
    # The module's limit of 128 KiB a field would refuse long documents; it has no other place to be set.
    csv.field_size_limit(MAX_ROW_BYTES)
    content = lines(path)
    first = next(content, "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(_chain(first, content), delimiter=delimiter, strict=True)
    try:
        header = [field.strip() for field in next(reader, [])]
    except csv.Error as error:
        raise InvalidInput(
            f"{name}: line {reader.line_num}: the header is malformed CSV: {error}; expected the names of "
            "the columns, separated by comma, semicolon or tab"
        ) from error
    wanted_columns(header, name)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield SourceRow(name, number, None, f"malformed CSV: {error}")
            continue
        if len(fields) == len(header):
            yield SourceRow(name, number, dict(zip(header, fields, strict=True)))
        elif fields:
            yield SourceRow(
                name, number, None, f"the row has {len(fields)} fields, the header names {len(header)}"
            )


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _read_chatterbot(path: Path, name: str) -> SourceRows:
    """Rows {topic, lines} of a chatterbot corpus file; texts stay as written ("1963" is no number)."""
    import yaml

    with opened(path) as stream:
        content = stream.read(_MAX_CORPUS + 1)
    if len(content) > _MAX_CORPUS:
        raise InvalidInput(f"{name}: exceeds {_MAX_CORPUS >> 20} MiB; split the corpus into smaller files")
    try:
        _refuse_depth(content)
        document = yaml.compose(io.BytesIO(content), Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{name}: malformed YAML: {' '.join(str(error).split())}") from error
    conversations = None
    if isinstance(document, yaml.MappingNode):
        conversations = next((v for k, v in document.value if k.value == "conversations"), None)
    if not isinstance(conversations, yaml.SequenceNode):
        raise InvalidInput(f"{name}: not a chatterbot corpus; expected a list under the key `conversations`")
    topic = Path(name.removesuffix(".gz")).stem
    for node in conversations.value:
        number = node.start_mark.line + 1
        lines = node.value if isinstance(node, yaml.SequenceNode) else []
        if lines and all(isinstance(line, yaml.ScalarNode) for line in lines):
            yield SourceRow(name, number, {"topic": topic, "lines": [line.value for line in lines]})
        else:
            yield SourceRow(name, number, None, "the conversation is not a list of lines")


def _refuse_depth(content: bytes) -> None:
    """PyYAML's composer calls itself for each level and overflows the stack, which ends the process."""
    import yaml

    depth = 0
    for event in yaml.parse(content, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"more than {_MAX_DEPTH} levels; a corpus has three")


YAML = (".yml", ".yaml")
DOCUMENTS = (".txt", ".md")
READERS: dict[str, Callable[[Path, str], SourceRows]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": read_parquet,
    **dict.fromkeys(YAML, _read_chatterbot),
}
