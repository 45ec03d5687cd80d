"""Splits by distinct prompt: rows with one prompt never part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from stages.errors import InvalidInput
from stages.formats.splits import UNDESIRABLE

SPLITS = ("train", "validation", "test")


def bucket(seed: int, prompt_hash: str) -> int:
    """A number in [0, 2⁶⁴) that depends on the seed and the prompt only: not on other rows, not on order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt_hash}".encode()).digest()[:8])


def assign(buckets: np.ndarray, validation: float, test: float) -> np.ndarray:
    """The split of each row, as an index into `SPLITS`: uint8 of shape (rows,).

    `buckets`: uint64 of shape (rows,), one `bucket` a row. A split that was asked for and came out empty
    takes the prompt with the lowest bucket from the split that has the most.
    Raises `InvalidInput` when there are fewer distinct prompts than splits.
    """
    prompts, prompt_of_row = np.unique(buckets, return_inverse=True)
    shares = (1 - validation - test, validation, test)
    wanted = [index for index, share in enumerate(shares) if share > 0]
    if len(prompts) < len(wanted):
        names = " + ".join(SPLITS[index] for index in wanted)
        raise InvalidInput(
            f"the data have {len(prompts)} distinct prompt(s) or document(s), too few for {names} without "
            "one in two of them; add data (a long document as several rows or files), or set "
            "prepare.split.validation or prepare.split.test to 0"
        )
    place = prompts / 2.0**64
    splits = np.where(place < test, 2, np.where(place < test + validation, 1, 0)).astype(np.uint8)
    for index in wanted:
        if not (splits == index).any():
            donor = int(np.bincount(splits, minlength=len(SPLITS)).argmax())
            splits[np.flatnonzero(splits == donor)[0]] = index
    return np.asarray(splits[prompt_of_row])


def by_label(
    names: Sequence[str], split_of_row: np.ndarray, undesirable: np.ndarray, source: str
) -> tuple[Sequence[str], np.ndarray]:
    """The splits and that of each row, where bad answers have splits of their own after the other ones.

    `split_of_row` as in `assign`, -1 for a row that is left out; `undesirable`: bool of its shape. Raises
    `InvalidInput` where those to train on are not of both kinds.
    """
    for called, which in (("good", ~undesirable), ("bad", undesirable)):
        if not (which & (split_of_row == 0)).any():
            raise InvalidInput(
                f"{source}: no answer of the training split is called {called}, so there is nothing to tell "
                "the others from; add rows of both labels, or prepare those with good answers without their "
                "label, as an ordinary format"
            )
    apart = np.where(undesirable & (split_of_row >= 0), split_of_row + len(names), split_of_row)
    return (*names, *(f"{name}{UNDESIRABLE}" for name in names)), apart
