"""Rows that were held out before stay held out: a test split that only grows and is never trained on.

A dataset of a feed says in `feed_rows.json` which rows of the feed are in which of its splits. The next one
begins with what that one held out (the frozen rows, in `test`) and judges on rows that came since beside it
(`fresh`). What is asked in a frozen row, or nearly that, is trained on never, whenever it comes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.feeds.forgetting import LIST, SET_ASIDE
from stages.config.feed import feed_of
from stages.data.source import Source
from stages.data.source_row import SourceRows
from stages.data.split import SPLITS, assign
from stages.errors import InvalidInput

FILE = LIST
FRESH = "fresh"
OF_FEED = (*SPLITS, FRESH)
_TRAIN, _TEST, _FRESH, _OUT = 0, 2, 3, -1


@dataclass(frozen=True)
class HeldOut:
    """What an earlier dataset of the same feed held out: numbers of rows, and how far it had read.

    `fresh`: those of its fresh split; none where that is the same as `test`, as in a first dataset.
    """

    rows: frozenset[int]
    fresh: frozenset[int]
    watermark: int

    def among(self, lines: np.ndarray) -> np.ndarray:
        """bool of the shape of `lines`, numbers of rows (uint64): True for one that was held out."""
        return _among(self.rows, lines)


def of_dataset(folder: Path) -> HeldOut:
    """What the dataset in `folder` held out. Raises `InvalidInput` where it is of no feed."""
    path = folder / FILE
    if not path.is_file():
        raise InvalidInput(f"{folder.name}: no {FILE}; expected a dataset that was prepared from a feed")
    known = json.loads(path.read_text("utf-8"))
    test, fresh, aside = (frozenset(known.get(name, ())) for name in ("test", FRESH, SET_ASIDE))
    return HeldOut(test | fresh | aside, fresh - test, int(known["watermark"]))


def first_held_out(source: Source, before: HeldOut | None) -> SourceRows:
    """The source's rows, those that were held out before the rest: of two alike the first one stays."""
    if before is None:
        yield from source.rows()
        return
    yield from (source_row for source_row in source.rows() if source_row.line in before.rows)
    yield from (source_row for source_row in source.rows() if source_row.line not in before.rows)


def assign_beside(
    before: HeldOut,
    lines: np.ndarray,
    prompts: np.ndarray,
    like_frozen: np.ndarray,
    validation: float,
    test: float,
) -> np.ndarray:
    """The split of each row as an index into `OF_FEED`, -1 for one that is left out: int8 of shape (rows,).

    `lines`: uint64, numbers of the rows in the feed; `prompts`: uint64, `split.bucket` of each;
    `like_frozen`: bool, whether it asks what a frozen row asks, or nearly that. All of shape (rows,).
    Where no row is new, what was fresh is fresh again.
    """
    frozen = before.among(lines)
    new = lines > before.watermark
    splits = assign(prompts, validation, test).astype(np.int8)
    splits[splits == _TEST] = _FRESH
    splits[(splits == _FRESH) & ~new] = _OUT  # was trained on, or left out: the live model may know it
    splits[like_frozen] = _OUT
    splits[frozen] = _TEST
    if not new.any():
        splits[_among(before.fresh, lines)] = _FRESH
    elif test > 0 and not (splits == _FRESH).any():
        learned = (splits == _TRAIN) & new & ~np.isin(prompts, prompts[~new])
        if learned.any():
            splits[learned & (prompts == prompts[learned].min())] = _FRESH
    return splits


def splits_beside(before: HeldOut | None, lines: np.ndarray) -> Sequence[str]:
    """The splits to write: without `fresh` where nothing tells that from `test`, and both are the same."""
    if before is None or not (before.fresh or (lines > before.watermark).any()):
        return SPLITS
    return OF_FEED


def write_rows(
    source: str,
    lines: np.ndarray,
    splits: np.ndarray,
    names: Sequence[str],
    before: HeldOut | None,
    out: Path,
) -> Mapping[str, list[int]]:
    """Write `feed_rows.json`: the feed, its watermark, and the numbers of the rows in each split.

    `set_aside`: rows that were held out before and are not in this dataset, such as those that are too long
    for it; a later one that has them does not train on them either.
    """
    named = feed_of(source)
    assert named is not None
    numbers = {name: np.sort(lines[splits == index]).tolist() for index, name in enumerate(names)}
    if FRESH not in numbers:  # the first dataset of a channel: all that is held out is new
        numbers[FRESH] = numbers["test"]
    if before is not None and (aside := before.rows.difference(numbers["test"], numbers[FRESH])):
        numbers[SET_ASIDE] = sorted(aside)
    document = {"feed": named[0], "watermark": named[1], **numbers}
    (out / FILE).write_text(json.dumps(document, separators=(",", ":")) + "\n", "utf-8")
    return numbers


def _among(numbers: Collection[int], lines: np.ndarray) -> np.ndarray:
    return np.isin(lines, np.array(sorted(numbers), dtype=np.uint64))
