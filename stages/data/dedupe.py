"""Exact and near duplicates among chats, in bounded memory and with the same result every time.

Near duplicates: MinHash signatures (Broder 1997, "On the resemblance and containment of documents") of
word 3-grams, candidates by banding (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", §3.4),
each candidate pair confirmed by its true Jaccard similarity.
"""

from __future__ import annotations

import unicodedata
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PERMUTATIONS = 128
GRAM = 3
COMPARED = 64
"""In a bucket with more rows than this, rows are compared with the first ones only."""
_FOUND = 0.99  # least probability that a pair at the threshold becomes a candidate
_CHUNK = 65536
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def normalized(text: str) -> str:
    """NFKC, case folded, white space collapsed: what counts as the same text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(texts: Sequence[str]) -> np.ndarray:
    """Sorted distinct 64-bit hashes of the word 3-grams of `texts`, in order, with a mark between them.

    Fewer than three words make one shingle. Returns uint64 of shape (distinct shingles,).
    """
    words: list[int] = []
    for text in texts:
        words += [zlib.crc32(word.encode()) for word in normalized(text).split()]
        words.append(0)
    values = np.array(words[:-1] + [0] * (GRAM + 1 - len(words)), dtype=np.uint64)
    grams = np.zeros(len(values) - GRAM + 1, dtype=np.uint64)
    for k, multiplier in enumerate(_MULTIPLIERS):
        grams ^= _mixed(values[k : len(grams) + k] * multiplier + multiplier)
    return np.unique(_mixed(grams))


class NearDuplicates:
    """Collects rows on disk under `scratch`, then tells which have an earlier near duplicate.

    Memory: 8 bytes a row while adding, about 32 a row in `duplicates`.
    """

    def __init__(self, threshold: float, scratch: Path) -> None:
        self._threshold = threshold
        self._paths = (scratch / "signatures", scratch / "shingles")
        self._signatures, self._shingles = (path.open("wb") for path in self._paths)
        self._ends = array("Q", [0])
        random = np.random.default_rng(0)
        self._a = random.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._b = random.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64)

    def close(self) -> None:
        """No row comes any more."""
        self._signatures.close()
        self._shingles.close()

    def add(self, texts: Sequence[str]) -> None:
        """Add the next row."""
        grams = shingles(texts)
        # Multiply-shift hashing (Dietzfelbinger et al. 1997), one hash function a column.
        hashed = (grams[:, None] * self._a + self._b) >> np.uint64(32)
        self._signatures.write(hashed.min(axis=0).astype(np.uint32).tobytes())
        self._shingles.write(grams.tobytes())
        self._ends.append(self._ends[-1] + len(grams))

    def duplicates(self) -> np.ndarray:
        """bool of shape (rows,): True where an earlier row has a Jaccard similarity ≥ the threshold.

        To be called after `close`.
        """
        rows = len(self._ends) - 1
        found = np.zeros(rows, dtype=bool)
        if rows < 2:
            return found
        signatures = np.memmap(self._paths[0], np.uint32, "r", shape=(rows, PERMUTATIONS))
        grams = np.memmap(self._paths[1], np.uint64, "r")
        width = rows_per_band(self._threshold)
        for start in range(0, PERMUTATIONS, width):
            for bucket in _buckets(_band_keys(signatures, start, width)):
                self._compare(bucket, grams, found)
        return found

    def _compare(self, bucket: np.ndarray, grams: np.ndarray, found: np.ndarray) -> None:
        first = [self._grams(row, grams) for row in bucket[:COMPARED]]
        for place, row in enumerate(bucket[1:], 1):
            if found[row]:
                continue
            own = first[place] if place < len(first) else self._grams(row, grams)
            found[row] = any(_jaccard(own, other) >= self._threshold for other in first[:place])

    def _grams(self, row: int, grams: np.ndarray) -> np.ndarray:
        return np.asarray(grams[self._ends[row] : self._ends[row + 1]])


def rows_per_band(threshold: float) -> int:
    """The widest band with which a pair at the threshold is still found with probability 0.99."""
    widths = (64, 32, 16, 8, 4, 2)
    return next((w for w in widths if 1 - (1 - threshold**w) ** (PERMUTATIONS // w) >= _FOUND), 1)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def _band_keys(signatures: np.ndarray, start: int, width: int) -> np.ndarray:
    keys = np.zeros(len(signatures), dtype=np.uint64)
    for low in range(0, len(signatures), _CHUNK):
        part = signatures[low : low + _CHUNK, start : start + width].astype(np.uint64)
        for column in part.T:
            keys[low : low + _CHUNK] = _mixed(keys[low : low + _CHUNK] + column)
    return keys


def _buckets(keys: np.ndarray) -> Iterator[Any]:
    """Rows with one key, in their order, for each key that several rows have."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    edges = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1], [True])))
    for place in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[place] : edges[place + 1]]


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
