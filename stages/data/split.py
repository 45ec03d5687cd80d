"""Splits by distinct prompt: rows with one prompt never part."""

from __future__ import annotations

import hashlib

import numpy as np

from stages.errors import InvalidInput

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
            f"the data have {len(prompts)} distinct prompt(s), too few for {names} without one prompt in "
            "two of them; add data, or set prepare.split.validation or prepare.split.test to 0"
        )
    place = prompts / 2.0**64
    splits = np.where(place < test, 2, np.where(place < test + validation, 1, 0)).astype(np.uint8)
    for index in wanted:
        if not (splits == index).any():
            donor = int(np.bincount(splits, minlength=len(SPLITS)).argmax())
            splits[np.flatnonzero(splits == donor)[0]] = index
    return np.asarray(splits[prompt_of_row])
