"""What each split of a prepared dataset holds: lengths, languages, likely secrets and personal data.

Of what is found only the kind, how often and where is told, and never the text; nothing of it is written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute
import pyarrow.parquet

from stages.data.report.language import UNTOLD, identifier
from stages.data.report.sensitive import KINDS, found
from stages.data.report.similar import Pair, similar
from stages.formats.splits import ALL_SPLITS, UNDESIRABLE

MOST_ROWS = 50_000
"""Rows of a split that are read; the report says so where there are more."""
PLACES = 5
PAIRS = 5
_BATCH = 1000


@dataclass(frozen=True)
class SplitReport:
    """A split: lengths in tokens of the base's tokenizer; `languages`: rows of each, the commonest first."""

    split: str
    rows: int
    read: int
    median_tokens: int
    p95_tokens: int
    longest_tokens: int
    trained_share: float
    languages: Mapping[str, int]

    @property
    def main_languages(self) -> str:
        """The languages of at least one row in a hundred, as `en 93 %, de 6 %`."""
        shares = [(code, rows / self.read) for code, rows in self.languages.items()]
        return ", ".join(
            f"{'not told' if code == UNTOLD else code} {share:.0%}".replace("%", " %")
            for code, share in shares
            if share >= 0.01
        )


@dataclass(frozen=True)
class Sensitive:
    """A kind of likely secret or personal data. `places`: split, row (from 1) and whose message."""

    kind: str
    secret: bool
    rows: int
    occurrences: int
    places: list[tuple[str, int, str]]


@dataclass(frozen=True)
class DataReport:
    """`similar`: test questions alike to a trained one by `threshold`; `pairs`: the most alike."""

    splits: list[SplitReport]
    sensitive: list[Sensitive]
    threshold: float
    similar: int
    pairs: list[Pair]


def report(folder: Path, threshold: float = 0.6) -> DataReport:
    """The report on the prepared dataset in `folder`; reads at most `MOST_ROWS` rows of each split.

    Memory: the questions of train and test, about 1 kB a row.
    """
    language, hits = identifier(), _Hits()
    splits, questions = [], defaultdict[str, list[str]](list)
    for split in ALL_SPLITS:
        if (file := folder / f"{split}.parquet").is_file():
            languages = Counter[str]()
            for row, messages in enumerate(_chats(file), 1):
                texts = [(str(message["role"]), _text(message)) for message in messages]
                hits.add(split, row, texts)
                languages[language("\n".join(text for role, text in texts if role != "system"))] += 1
                if (asked := split.removesuffix(UNDESIRABLE)) in ("train", "test"):
                    questions[asked].append("\n".join(t for role, t in texts if role != "assistant"))
            splits.append(_split(split, file, dict(languages.most_common())))
    alike, pairs = similar(questions["train"], questions["test"], threshold, PAIRS)
    return DataReport(splits, hits.told(), threshold, alike, pairs)


class _Hits:
    def __init__(self) -> None:
        self._occurrences, self._rows = Counter[str](), Counter[str]()
        self._places = defaultdict[str, list[tuple[str, int, str]]](list)

    def add(self, split: str, row: int, texts: list[tuple[str, str]]) -> None:
        seen = set[str]()
        for role, text in texts:
            for kind, number in found(text):
                self._occurrences[kind.name] += number
                if kind.name not in seen and len(self._places[kind.name]) < PLACES:
                    self._places[kind.name].append((split, row, role))
                seen.add(kind.name)
        self._rows.update(seen)

    def told(self) -> list[Sensitive]:
        return [
            Sensitive(
                kind.name,
                kind.secret,
                self._rows[kind.name],
                self._occurrences[kind.name],
                self._places[kind.name],
            )
            for kind in KINDS
            if self._rows[kind.name]
        ]


def _chats(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Each row's messages, with the answer that is not preferred at the end where it has one."""
    left = MOST_ROWS
    with pyarrow.parquet.ParquetFile(file) as parquet:
        columns = [name for name in ("messages", "rejected") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_BATCH, columns=columns):
            for row in batch.slice(0, left).to_pylist():
                answer = row.get("rejected")
                yield row["messages"] + ([] if answer is None else [answer])
            left -= len(batch)
            if left <= 0:
                return


def _text(message: Mapping[str, Any]) -> str:
    """All that a message says: its content, and its reasoning and calls where it has them."""
    parts = [message.get("content"), message.get("reasoning_content")]
    parts += [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    return "\n".join(part for part in parts if part)


def _split(split: str, file: Path, languages: Mapping[str, int]) -> SplitReport:
    table = pyarrow.parquet.read_table(file, columns=["tokens", "trainable"])
    tokens = table.column("tokens")
    median, p95, longest = pyarrow.compute.quantile(
        tokens, [0.5, 0.95, 1.0], interpolation="higher"
    ).to_pylist()
    total, trained = (pyarrow.compute.sum(column).as_py() for column in (tokens, table.column("trainable")))
    lengths = (int(median or 0), int(p95 or 0), int(longest or 0))
    share = trained / total if total else 0.0
    return SplitReport(split, table.num_rows, sum(languages.values()), *lengths, share, languages)
