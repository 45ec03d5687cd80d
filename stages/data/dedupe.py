"""Near duplicates among chats, in bounded memory and with the same result every time.

Two rows are one where both what was asked and what was answered are nearly alike, in what is their own:
an instruction, a system text or a template that many rows share (a frame) is no likeness, and whatever
differs counts as a difference. Candidates come from MinHash signatures (Broder 1997, "On the resemblance and
containment of documents") of word 3-grams outside of frames, by banding (Leskovec, Rajaraman, Ullman,
"Mining of Massive Datasets", §3.4); each candidate pair is then compared exactly.
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
FRAME = 5
"""A 3-gram that as many rows have belongs to a frame. So five or more rows alike in all but a few words are
all kept: a form that is filled in cannot be told from a text that is copied with changes."""
COMPARED = 64
"""In a bucket with more rows than this, rows are compared with the first ones only."""
ANSWERED = np.uint64(1 << 63)
"""Set in the 3-grams of what was answered, clear in those of what was asked."""
_FOUND = 0.99  # least probability that a pair at the threshold becomes a candidate
_CHUNK = 65536
_COUNTED = 2**22  # 3-grams that are counted at once: 32 MiB
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def normalized(text: str) -> str:
    """NFKC, case folded, white space collapsed: what counts as the same words, and as the same prompt."""
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

    Memory: 8 bytes a row while adding; in `duplicates` about 32 a row, and what counting takes (100 MB).
    """

    def __init__(self, threshold: float, scratch: Path) -> None:
        self._threshold = threshold
        self._scratch = scratch
        self._shingles = (scratch / "shingles").open("wb")
        self._ends = array("Q", [0])

    def close(self) -> None:
        """No row comes any more."""
        self._shingles.close()

    def add(self, asked: Sequence[str], answered: Sequence[str], apart: bool = False) -> None:
        """Add the next row: what was said to the model, and what it says.

        `apart`: its answer is like those of rows that were added so, and of no others.
        """
        answer = shingles(answered)
        sides = (shingles(asked) & ~ANSWERED, (_mixed(answer) if apart else answer) | ANSWERED)
        grams = np.concatenate([np.unique(side) for side in sides])
        self._shingles.write(grams.tobytes())
        self._ends.append(self._ends[-1] + len(grams))

    def duplicates(self) -> np.ndarray:
        """bool of shape (rows,): True where an earlier row is alike by at least the threshold (`likeness`).

        To be called after `close`.
        """
        rows = len(self._ends) - 1
        repeated = np.zeros(rows, dtype=bool)
        if rows < 2:
            return repeated
        grams = np.memmap(self._scratch / "shingles", np.uint64, "r")
        frames = shared_by_many(grams) if rows >= FRAME else np.empty(0, np.uint64)
        signatures = self._signatures(grams, frames)
        width = rows_per_band(self._threshold)
        for start in range(0, PERMUTATIONS, width):
            for bucket in _buckets(_band_keys(signatures, start, width)):
                self._compare(bucket, grams, frames, repeated)
        return repeated

    def like_first(self, first: int, counted: int) -> np.ndarray:
        """bool of shape (rows,): True where what is asked is alike to what one of the `first` rows asks.

        By at least the threshold; False for these rows themselves. Frames are those of the first `counted`
        rows: of a question that comes many times, all later copies are found. To be called after `close`.
        """
        rows = len(self._ends) - 1
        alike = np.zeros(rows, dtype=bool)
        if not first or rows == first:
            return alike
        grams = np.memmap(self._scratch / "shingles", np.uint64, "r")
        frames = shared_by_many(grams[: self._ends[counted]]) if counted >= FRAME else np.empty(0, np.uint64)
        neighbours = Neighbours([self._asked(row, grams) for row in range(first)], frames)
        for row in range(first, rows):
            near = neighbours.of(self._asked(row, grams))
            alike[row] = any(likeness >= self._threshold for _, likeness in near)
        return alike

    def _asked(self, row: int, grams: np.ndarray) -> np.ndarray:
        whole = self._grams(row, grams)
        return whole[: np.searchsorted(whole, ANSWERED)]

    def _signatures(self, grams: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """uint32 of shape (rows, PERMUTATIONS), on disk."""
        random = np.random.default_rng(0)
        a = random.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        b = random.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64)
        path = self._scratch / "signatures"
        with path.open("wb") as file:
            for row in range(len(self._ends) - 1):
                whole = self._grams(row, grams)
                distinctive = whole[~_among(whole, frames)]
                if not len(distinctive):  # made of frames only: the same as another only if all of it is
                    distinctive = np.bitwise_xor.reduce(_mixed(whole), keepdims=True)
                # Multiply-shift hashing (Dietzfelbinger et al. 1997), one hash function a column.
                hashed = (distinctive[:, None] * a + b) >> np.uint64(32)
                file.write(hashed.min(axis=0).astype(np.uint32).tobytes())
        return np.memmap(path, np.uint32, "r", shape=(len(self._ends) - 1, PERMUTATIONS))

    def _compare(
        self, bucket: np.ndarray, grams: np.ndarray, frames: np.ndarray, repeated: np.ndarray
    ) -> None:
        first = [self._grams(row, grams) for row in bucket[:COMPARED]]
        for place, row in enumerate(bucket[1:], 1):
            if repeated[row]:
                continue
            row_grams = first[place] if place < len(first) else self._grams(row, grams)
            repeated[row] = any(
                likeness(row_grams, other, frames) >= self._threshold for other in first[:place]
            )

    def _grams(self, row: int, grams: np.ndarray) -> np.ndarray:
        return np.asarray(grams[self._ends[row] : self._ends[row + 1]])


class Neighbours:
    """Finds, among some texts, those that have something of their own in common with another one."""

    def __init__(self, texts: Sequence[np.ndarray], frames: np.ndarray) -> None:
        """`texts`: the 3-grams of each, and `frames` what does not count: sorted uint64."""
        self._texts, self._frames = texts, frames
        distinctive = [values[~_among(values, frames)] for values in texts]
        owners = np.repeat(np.arange(len(texts)), [len(values) for values in distinctive])
        values = np.concatenate(distinctive)
        order = np.argsort(values, kind="stable")
        self._values, self._owners = values[order], owners[order]

    def of(self, grams: np.ndarray) -> Iterator[tuple[int, float]]:
        """The place of each, in no order, and its `overlap` with this one."""
        low, high = (np.searchsorted(self._values, grams, side) for side in ("left", "right"))
        near = {int(owner) for a, b in zip(low, high, strict=True) for owner in self._owners[a:b]}
        for place in near:
            yield place, overlap(grams, self._texts[place], self._frames)


def likeness(a: np.ndarray, b: np.ndarray, frames: np.ndarray) -> float:
    """How alike two rows are, from 0 to 1: the lower of the likenesses of the questions and of the answers.

    All three arrays are sorted uint64.
    """
    cut_a, cut_b = np.searchsorted(a, ANSWERED), np.searchsorted(b, ANSWERED)
    return min(overlap(a[cut_a:], b[cut_b:], frames), overlap(a[:cut_a], b[:cut_b], frames))


def overlap(a: np.ndarray, b: np.ndarray, frames: np.ndarray) -> float:
    """The Jaccard similarity of two texts' 3-grams in which those that both have from a frame do not count.

    Those of a frame that one has and the other has not do. All three arrays are sorted uint64.
    """
    both = np.intersect1d(a, b, assume_unique=True)
    framed = int(_among(both, frames).sum())
    either = len(a) + len(b) - len(both) - framed
    return (len(both) - framed) / either if either else 1.0


def shared_by_many(grams: np.ndarray) -> np.ndarray:
    """The values that stand at least `FRAME` times in `grams`, sorted: uint64. In bounded memory."""
    parts = 1 << max(0, (len(grams) // _COUNTED).bit_length())
    common = []
    for part in range(parts):
        chunks = (grams[low : low + _COUNTED] for low in range(0, len(grams), _COUNTED))
        portion = np.concatenate([c[(c & np.uint64(parts - 1)) == part] for c in chunks])
        values, counts = np.unique(portion, return_counts=True)
        common.append(values[counts >= FRAME])
    return np.sort(np.concatenate(common))


def rows_per_band(threshold: float) -> int:
    """The widest band with which a pair at the threshold is still found with probability 0.99."""
    widths = (64, 32, 16, 8, 4, 2)
    return next((w for w in widths if 1 - (1 - threshold**w) ** (PERMUTATIONS // w) >= _FOUND), 1)


def _among(values: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """bool of the shape of `values`: True where a value is in the sorted `ranked`."""
    if not len(ranked):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(ranked, values), len(ranked) - 1)
    return np.asarray(ranked[places] == values)


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
