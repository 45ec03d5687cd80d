"""`docs/data.md` from the cases: `python -m tests.stages.data.odd.page` writes it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.backends import chat
from stages.config.base import BaseConfig
from stages.contract import Parent
from stages.resolve import resolve
from tests.stages.data.odd import calls, chats, files, pairs
from tests.stages.data.odd.case import Case, outcome

PAGE = Path(__file__).parents[4] / "docs" / "data.md"
GROUPS: dict[str, Sequence[Case]] = {
    "Messages": chats.OPENAI,
    "Reasoning": chats.REASONING,
    "Tools and calls": calls.CALLING,
    "ShareGPT": calls.SHAREGPT,
    "Alpaca and Dolly": pairs.ALPACA,
    "Questions and answers": pairs.PAIRS,
    "Files": files.FILES,
    "Values": files.VALUES,
}
CASES = [case for cases in GROUPS.values() for case in cases]
_SHOWN = 160  # characters of a row
_HEAD = """# What becomes of odd data

<!-- Written by `python -m tests.stages.data.odd.page`. Do not edit: change the cases in tests/stages/data/odd. -->

Data from elsewhere are odd in many ways. Each row of these tables was given to `tuneline prepare`, with SmolLM2's tokenizer; the
last column is what it did. **Bold** is what a model learns, the rest it reads. A row that is refused is in `rejects.jsonl` with
its place, this code and this reason, and more than `prepare.max_rejected` of them (5 %) fail the run; a run that is refused ends
before anything is trained. Nothing that a row holds is left out in silence: a field that no format uses is listed with the number
of rows that have it. [What a row may be](bring-your-own.md#data) is told elsewhere.
"""  # noqa: E501


def outcomes(base: Parent, folder: Path) -> dict[str, str]:
    """kind → what becomes of it, with the tokenizer of `base`, whose template a case may replace."""
    tokenizer = chat.load_tokenizer(base.path)
    own, found = tokenizer.chat_template, {}
    for number, case in enumerate(CASES):
        tokenizer.chat_template = case.template or own
        found[case.kind] = outcome(case, base, folder / str(number))
    tokenizer.chat_template = own
    return found


def page(found: dict[str, str]) -> str:
    """The document, in Markdown."""
    return "\n".join([_HEAD, *_tables(found)])


def _tables(found: dict[str, str]) -> Iterator[str]:
    for group, cases in GROUPS.items():
        yield f"## {group}\n"
        yield "| | the data | what happens |\n|---|---|---|"
        for case in cases:
            settings = "".join(f", `{key}: {json.dumps(value)}`" for key, value in case.settings.items())
            told = found[case.kind].replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
            yield f"| {case.kind}{settings} | {_code(_data(case))} | {told} |"
        yield ""


def _data(case: Case) -> str:
    if isinstance(case.data, bytes):
        return repr(case.data)[2:-1]
    if isinstance(case.data, str):
        return repr(case.data)[1:-1]
    return " and ".join(json.dumps(row, ensure_ascii=False) for row in case.data)


def _code(text: str) -> str:
    short = text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
    return f"`` {short.replace('|', chr(92) + '|')} ``"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base"
        path.mkdir()
        facts = resolve({}, BaseConfig(source="pico:0"), path)
        base = Parent(id="0" * 64, kind="base", path=path, base=facts.base, metrics={})
        tokenizer, read = chat.load_tokenizer(path), chat.load_tokenizer
        chat.load_tokenizer = lambda path: tokenizer
        try:
            PAGE.write_text(page(outcomes(base, Path(folder))), "utf-8")
        finally:
            chat.load_tokenizer = read


if __name__ == "__main__":
    main()
