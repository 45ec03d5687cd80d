"""Which evaluation items stand in the training data: word for word, or in large part.

Only what is looked for is held in memory; the training data stream past it, however large they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flows.errors import Usage
from flows.gates.evidence import Evidence
from flows.gates.policy import Contamination, FiniteRecord
from stages.formats.splits import undesirable

_WORD = re.compile(r"\w+")
_BATCH = 4096
"""Rows of Parquet in memory at a time."""


class SeenItem(FiniteRecord):
    """An item that the model has met in training."""

    task: str
    item: str
    asked: str
    share: float
    why: str


class Seen(FiniteRecord):
    """What a search found."""

    looked_for: int
    rows: int
    items: tuple[SeenItem, ...]


def search(
    evidence: Evidence, tasks: Iterable[str], rows: Iterable[Iterable[str]], limits: Contamination
) -> Seen:
    """Look for the items of `tasks` in `rows` of training texts (a row: the texts of its messages).

    An item counts when its words (case, punctuation and accents' encoding aside) are a whole message, or
    when at least `limits.share` of its sequences of `limits.words` words occur anywhere: the containment of
    Brown et al. 2020 (arXiv 2005.14165, appendix C). An item with fewer words is looked for whole only.
    """
    wanted = {
        (name, item): words(text)
        for name in tasks
        if name in evidence.tasks
        for item, text in evidence.tasks[name].asked.items()
    }
    whole = {" ".join(text) for text in wanted.values()}
    sequences = {gram for text in wanted.values() for gram in grams(text, limits.words)}
    met_whole: set[str] = set()
    met: set[tuple[str, ...]] = set()
    count = 0
    for row in rows:
        count += 1
        for message in row:
            text = words(message)
            if (joined := " ".join(text)) in whole:
                met_whole.add(joined)
            met |= sequences.intersection(grams(text, limits.words))
    contaminated = []
    for (name, item), text in wanted.items():
        mine = list(grams(text, limits.words))
        share = sum(gram in met for gram in mine) / len(mine) if mine else 0.0
        exact = bool(text) and " ".join(text) in met_whole
        if exact or (mine and share >= limits.share):
            asked, why = evidence.tasks[name].asked[item], "word for word" if exact else f"{share:.0%} of it"
            contaminated.append(
                SeenItem(task=name, item=item, asked=asked, share=1.0 if exact else share, why=why)
            )
    return Seen(looked_for=len(wanted), rows=count, items=tuple(contaminated))


def words(text: str) -> list[str]:
    """The words of a text in lower case, compatibility forms of letters made one (Unicode NFKC)."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())


def grams(text: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words."""
    return zip(*(text[start:] for start in range(length)), strict=False)


def training_texts(dataset: Path) -> Iterator[list[str]]:
    """Each row of the train split of a prepared dataset (a directory, or the Parquet file) as its messages'
    texts, the system's aside. Raises `Usage`."""
    import pyarrow
    import pyarrow.parquet as pq

    file = dataset / "train.parquet" if dataset.is_dir() else dataset
    files = [file, *([undesirable(file)] if undesirable(file).is_file() else [])]
    try:
        for each in files:
            with pq.ParquetFile(each) as opened:
                for batch in opened.iter_batches(batch_size=_BATCH, columns=["messages"]):
                    for row in batch.column("messages").to_pylist():
                        yield [_content(message) for message in row if message.get("role") != "system"]
    except (OSError, pyarrow.ArrowException, KeyError, AttributeError, TypeError) as error:
        raise Usage(
            f"training data {file}: expected the train.parquet of a prepared dataset, with a column messages "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from None


def _content(message: Mapping[str, str]) -> str:
    return message.get("content") or ""
