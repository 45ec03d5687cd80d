"""Chats as the model sees them, for somebody to look at: `python -m stages.backends.rendering`.

Takes `{"tokenizer": folder, "chats": [[{role, content}, …], …]}` as JSON on standard input. Answers with a
JSON list on standard output: of each chat its text in pieces `[text, trained]`, or why it cannot be rendered.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

from stages.backends.chat import Message, Tokenizer, encode_with_mask, load_tokenizer
from stages.backends.tokenizer import without_torch
from stages.errors import StageError

Pieces = list[tuple[str, bool]]


def main() -> int:
    job = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    without_torch()
    tokenizer = load_tokenizer(Path(job["tokenizer"]))
    rendered: list[Pieces | str] = []
    for chat in job["chats"]:
        try:
            rendered.append(pieces(tokenizer, chat))
        except StageError as error:
            rendered.append(str(error))
    json.dump(rendered, answers)
    return 0


def pieces(tokenizer: Tokenizer, messages: list[Message]) -> Pieces:
    """The rendered chat, cut where what is trained begins and ends. Raises InvalidInput."""
    ids, mask = encode_with_mask(tokenizer, messages)
    runs = [list(run) for _, run in groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])]
    return [(tokenizer.decode([token for token, _ in run]), bool(run[0][1])) for run in runs]


if __name__ == "__main__":
    sys.exit(main())
