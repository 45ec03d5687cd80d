"""Numbers of a text that need no model: how long it is, how many of its words are new, what it is about."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 2000
"""The most frequent words of the reference, by which topics are told."""
TOPICS = 4
_FEW_WORDS = 2000
"""Words of a text that are looked at; what follows says little more."""


def words(text: str) -> list[str]:
    """Lower-case words and marks, in their order."""
    return _WORD.findall(text.lower())


class Measures(Protocol):
    """Numbers of one text, by what was learned from texts that are not among those compared."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers, in the order of `of`."""

    def of(self, text: str) -> list[float]:
        """The numbers."""


@dataclass(frozen=True)
class WordMeasures:
    """What is known of the texts that a comparison learned from; it never sees those that it is asked about.

    `topics` has shape [words, TOPICS]: the first principal axes of the texts' tf-idf vectors (latent semantic
    analysis, Deerwester et al. 1990, JASIS 41:391).
    """

    known: frozenset[str]
    index: dict[str, int]
    weights: np.ndarray
    topics: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers, in the order of `of`."""
        return ("length", "new words", *(f"topic {number + 1}" for number in range(self.topics.shape[1])))

    def of(self, text: str) -> list[float]:
        """Length in words; share of words that no reference text has; the place on each topic axis."""
        text_words = words(text)[:_FEW_WORDS]
        new = sum(word not in self.known for word in text_words) / max(len(text_words), 1)
        counts = Counter(self.index[word] for word in text_words if word in self.index)
        at = np.fromiter(counts, dtype=np.int64, count=len(counts))
        value = np.fromiter(map(float, counts.values()), dtype=float, count=len(counts)) * self.weights[at]
        norm = float(np.linalg.norm(value)) or 1.0
        return [float(len(text_words)), new, *(float(place) for place in value @ self.topics[at] / norm)]


def learn(texts: Sequence[str]) -> WordMeasures:
    """The measures that these texts define. ValueError where there are none with words."""
    split = [words(text)[:_FEW_WORDS] for text in texts]
    documents = Counter(word for text_words in split for word in set(text_words))
    if not documents:
        raise ValueError("no text has a word")
    kept = [word for word, _ in sorted(documents.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_WORDS]]
    index = {word: number for number, word in enumerate(kept)}
    weights = np.array([math.log((1 + len(split)) / (1 + documents[word])) + 1 for word in kept])
    vectors = np.zeros((len(split), len(kept)))
    for row, text_words in zip(vectors, split, strict=True):
        for word in text_words:
            if word in index:
                row[index[word]] += weights[index[word]]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:TOPICS]
    return WordMeasures(frozenset(documents), index, weights, axes.T)
