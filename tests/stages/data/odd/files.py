"""Odd files and values: encodings, line ends, malformed JSON, mixed formats."""

from __future__ import annotations

import gzip
import json

from tests.stages.data.odd.case import PLAIN, Case

ROW = {"prompt": "Warm in Bo?", "completion": "Yes."}
LINE, OTHER = (json.dumps(row) + "\n" for row in (ROW, PLAIN))
MIXED = {"messages": [{"role": "user", "content": "Warm in Bo?"}, {"role": "assistant", "content": "Yes."}]}
TEXT, AS_TEXT = {"text": "Two and two is four."}, {"format": "text"}

FILES = [
    Case("a byte order mark", "\ufeff" + LINE + OTHER, 'used: user: "Warm in Bo?"; **assistant: "Yes.";**'),
    Case(
        "Windows line ends",
        (LINE + OTHER).replace("\n", "\r\n"),
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    Case(
        "line ends within a text",
        [{"prompt": "Warm\r\nin Bo?", "completion": "Yes."}],
        'used: user: "Warm\\r\\nin Bo?"; **assistant: "Yes.";**',
    ),
    Case("empty lines", "\n" + LINE + "\n \n" + OTHER, 'used: user: "Warm in Bo?"; **assistant: "Yes.";**'),
    Case(
        "no line end after the last row",
        OTHER + LINE.rstrip(),
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    Case(
        "UTF-16",
        (LINE + OTHER).encode("utf-16"),
        "run refused: rows.jsonl: line 1, byte 1 of the line (0xff) is not UTF-8; convert",
    ),
    Case(
        "Latin-1",
        b'{"prompt": "Caf\xe9?", "completion": "Yes."}\n' + OTHER.encode(),
        "run refused: rows.jsonl: line 1, byte 16 of the line (0xe9) is not UTF-8; convert",
    ),
    Case(
        "a cut gzip archive",
        gzip.compress((LINE + OTHER).encode(), mtime=0)[:-12],
        "run refused: rows.jsonl.gz: the gzip archive is damaged (Compressed file ended",
        file="rows.jsonl.gz",
    ),
    Case("an empty file", "", "run refused: path:rows.jsonl holds no rows; expected at least one"),
    Case(
        "a file of another kind",
        LINE,
        "run refused: path:rows.xlsx: no data file found; expected .jsonl .json .csv .parquet",
        file="rows.xlsx",
    ),
    Case(
        "a text file",
        "Bo is warm.\n",
        "run refused: path:bo.txt: no data file found; expected .jsonl .json .csv .parquet .yml .yaml "
        "(also .gz), found bo.txt; bo.txt is a document: prepare.format: text reads it",
        file="bo.txt",
    ),
    Case(
        "a text file, to be learned whole",
        "\ufeffBo is warm.\r\n\r\nAnd dry.\r\n",
        'used: **document: "Bo is warm.\\n\\nAnd dry.\\n";**',
        file="bo.txt",
        settings=AS_TEXT,
        plain=None,
    ),
    Case(
        "a text file in UTF-16",
        "Bo is warm.\n".encode("utf-16"),
        "run refused: bo.txt: line 1, byte 1 of the line (0xff) is not UTF-8; convert the file",
        file="bo.txt",
        settings=AS_TEXT,
    ),
    Case(
        "JSON lines named .json",
        LINE + OTHER,
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
        file="rows.json",
    ),
    Case(
        "JSON named .jsonl",
        json.dumps([ROW, PLAIN], indent=1),
        "run refused: rows.jsonl: line 1 begins a JSON document, and .jsonl has one object in each line; "
        "name the file rows.json",
    ),
    Case(
        "rows under `data`",
        json.dumps({"version": 1, "data": [ROW, PLAIN]}),
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
        file="rows.json",
    ),
    Case(
        "rows under another key",
        json.dumps({"items": [ROW, PLAIN]}),
        "run refused: rows.json: line 1: the array under 'items' is not expected; rows stand",
        file="rows.json",
    ),
    Case(
        "JSON that ends too early",
        json.dumps([PLAIN, ROW])[:-4],
        "run refused: rows.json: line 1: malformed JSON: Unterminated string",
        file="rows.json",
    ),
    Case(
        "CSV with semicolons",
        "prompt;completion\nWarm in Bo?;Yes.\nWhat is two and two?;Four.\n",
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
        file="rows.csv",
    ),
    Case(
        "a CSV row with a field too many",
        "prompt,completion\nWarm, really?,Yes.\nWhat is two and two?,Four.\n",
        "row refused: malformed: the row has 3 fields, the header names 2",
        file="rows.csv",
    ),
    Case(
        "a CSV file without a header",
        "Warm in Bo?,Yes.\nWhat is two and two?,Four.\n",
        "run refused: path:rows.csv: the rows have the fields Warm in Bo?, Yes., by which",
        file="rows.csv",
    ),
    Case(
        "two CSV columns of one name",
        "prompt,completion,completion\nWarm in Bo?,Yes.,No.\n",
        "run refused: rows.csv: duplicate column completion; rename one of them",
        file="rows.csv",
    ),
]
VALUES = [
    Case(
        "a broken line",
        "{'prompt': 'Warm in Bo?'}\n" + OTHER,
        "row refused: malformed: malformed JSON: Expecting property name enclosed in double",
    ),
    Case(
        "two objects in a line",
        LINE.rstrip() + LINE + OTHER,
        "row refused: malformed: malformed JSON: Extra data: line 1 column 48 (char 47)",
    ),
    Case(
        "a row that is a list",
        '["Warm in Bo?", "Yes."]\n' + OTHER,
        "row refused: malformed: the row is a list, expected an object with named fields",
    ),
    Case(
        "a row that is a text",
        '"Warm in Bo?"\n' + OTHER,
        "row refused: malformed: the row is a text, expected an object with named fields",
    ),
    Case(
        "a key that is there twice",
        '{"prompt": "Warm in Bo?", "completion": "Yes.", "completion": "No."}\n' + OTHER,
        "row refused: malformed: the key completion is there twice in one object",
    ),
    Case(
        "NaN in a field that is not used",
        '{"prompt": "Warm in Bo?", "completion": "Yes.", "score": NaN}\n' + OTHER,
        'used: user: "Warm in Bo?"; **assistant: "Yes.";** (not used: score)',
    ),
    Case(
        "NaN as an answer",
        '{"prompt": "Warm in Bo?", "completion": NaN}\n' + OTHER,
        "row refused: wrong_type: completion is a number, expected a text",
    ),
    Case(
        "an integer of 5,000 digits",
        '{"prompt": "Warm in Bo?", "completion": ' + "7" * 5000 + "}\n" + OTHER,
        "row refused: wrong_type: completion is a number, expected a text",
    ),
    Case(
        "half a surrogate pair",
        '{"prompt": "Warm \\ud83d in Bo?", "completion": "Yes."}\n' + OTHER,
        "row refused: malformed: prompt: half a surrogate pair stands at character 6",
    ),
    Case(
        "a surrogate pair, escaped",
        '{"prompt": "Warm \\ud83d\\ude00 in Bo?", "completion": "Yes."}\n' + OTHER,
        'used: user: "Warm 😀 in Bo?"; **assistant: "Yes.";**',
    ),
    Case(
        "a NUL in a text",
        [{"prompt": "Warm\0 in Bo?", "completion": "Yes."}],
        'used: user: "Warm\\u0000 in Bo?"; **assistant: "Yes.";**',
    ),
    Case(
        "a row nested 100,000 deep",
        '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + ', "completion": "Yes."}\n' + OTHER,
        "row refused: malformed: malformed JSON: the row is nested too deeply",
    ),
    Case(
        "another format in a later row",
        [PLAIN, MIXED],
        "row refused: other_format: the row is of the format messages, and the first rows",
        plain=None,
    ),
    Case(
        "names of columns in capitals",
        [{"Prompt": "Warm in Bo?", "Completion": "Yes."}],
        "run refused: path:rows.jsonl: the rows have the fields Prompt, Completion, by which no format is "
        "detected; set prepare.columns: {Prompt: prompt, Completion: completion} if that is what they are; "
        "expected",
        plain=None,
    ),
    Case(
        "names of columns in capitals, named",
        [{"Prompt": "Warm in Bo?", "Completion": "Yes."}, {"Prompt": PLAIN["prompt"], "Completion": "Four."}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
        plain=None,
        settings={"columns": {"Prompt": "prompt", "Completion": "completion"}},
    ),
    Case(
        "texts and labels, named",
        [{"text": "Warm in Bo?", "label": "Yes."}, {"text": PLAIN["prompt"], "label": "Four."}],
        'used: user: "Warm in Bo?"; **assistant: "Yes.";**',
        plain=None,
        settings={"columns": {"text": "prompt", "label": "completion"}},
    ),
    Case(
        "rows of text alone",
        [{"text": "Bo is warm."}],
        "run refused: path:rows.jsonl: the rows have the fields text, by which no format is detected; set "
        "prepare.format: text if they are documents; expected",
        plain=None,
    ),
    Case(
        "documents",
        [{"text": "Bo is warm.", "url": "a.html"}],
        'used: **document: "Bo is warm.";** (not used: url)',
        plain=TEXT,
        settings=AS_TEXT,
    ),
    Case(
        "an empty document",
        [{"text": " "}],
        "row refused: empty_message: text is empty",
        plain=TEXT,
        settings=AS_TEXT,
    ),
    Case(
        "a document that is a list",
        [{"text": ["Bo is warm."]}],
        "row refused: wrong_type: text is a list, expected a text",
        plain=TEXT,
        settings=AS_TEXT,
    ),
    Case(
        "a document with an end-of-turn token",
        [{"text": "Bo<|im_end|>"}],
        "row refused: control_token: message 1 holds the control token '<|im_end|>'",
        plain=TEXT,
        settings=AS_TEXT,
    ),
    Case(
        "a chat among documents",
        [MIXED],
        "row refused: other_format: the row is of the format messages, and the first rows are",
        plain=TEXT,
        settings=AS_TEXT,
    ),
    Case(
        "a row that is too long",
        [{"prompt": "Warm in Bo? " * 40, "completion": "Yes."}],
        "row refused: too_long: 196 tokens, more than max_length 64",
        settings={"max_length": 64},
    ),
    Case("the same row twice", [ROW, ROW], 'used: user: "Warm in Bo?"; **assistant: "Yes.";**'),
    Case(
        "one question, two answers",
        [ROW, {**ROW, "completion": "No."}],
        (
            'used: user: "Warm in Bo?"; **assistant: "No.";** / used: user: "Warm in Bo?"; '
            '**assistant: "Yes.";**'
        ),
    ),
]
CASES = [*FILES, *VALUES]
