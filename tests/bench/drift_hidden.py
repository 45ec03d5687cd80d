"""Simulated days for the measures of hidden states: sentences of people, read once by SmolLM2-135M.

The sentences are the first ones of what functions of five installed packages say of themselves; a package is
a topic, and which one grows differs by deployment. Texts and vectors are kept in `.cache/`. Each deployment
draws its reference rows and its days from them, none twice. A change is a change of what is drawn: longer
ones more often (of a lognormal length that is the same as making them longer), one package more often, or
sentences in which words were replaced, or put into another order.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import random
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flows.drift import hidden
from flows.drift.comparison import DriftComparison
from flows.drift.measures import learn, words
from stages.config.base import BaseConfig
from stages.resolve import resolve
from tests.conftest import SMOLLM2
from tests.kept import kept

PACKAGES = ("torch", "scipy", "sqlalchemy", "transformers", "pandas")
OF_EACH = 1500
CHANGED = 2600
"""Sentences with replaced words, and as many in another order."""
CACHE = Path(__file__).resolve().parents[2] / ".cache"
ALPHA = 0.05
_FROM, _UPTO = 4, 40
"""Words of a sentence."""


class Pool:
    """All sentences: `texts`, [n]; `vectors`; `topic` of each (a number), `length` in words."""

    def __init__(self, folder: Path) -> None:
        kinds = json.loads((folder / "texts.json").read_text("utf-8"))
        self.plain: list[str] = kinds["plain"]
        self.changed = {
            kind: {int(number): text for number, text in kinds[kind].items()}
            for kind in ("new words", "other order")
        }
        """Number of a plain sentence -> the sentence that was made of it."""
        self.topic = np.array(kinds["topics"])
        self.length = np.array([len(words(text)) for text in self.plain], dtype=float)
        texts = [*self.plain, *(text for made in self.changed.values() for text in made.values())]
        self.vectors = dict(zip(texts, np.load(folder / "vectors.npy"), strict=True))

    def weights(self, longer: float = 1.0, topic: int = 0, share: float = 1 / len(PACKAGES)) -> np.ndarray:
        """How often each plain sentence is drawn, so that the mean length is `longer` times that of all, and
        the topic has this share."""
        others = (1 - share) / (len(PACKAGES) - 1)
        shares = np.where(self.topic == topic, share, others)
        low, high = 0.0, 4.0
        for _ in range(50):
            middle = (low + high) / 2
            tilted = shares * self.length**middle
            mean = float(tilted @ self.length / tilted.sum())
            low, high = (middle, high) if mean < longer * self.length.mean() else (low, middle)
        tilted = shares * self.length**low if longer > 1 else shares
        return np.asarray(tilted / tilted.sum())


def pool() -> Pool:
    """The sentences with their vectors; reads them with the model the first time, which takes minutes."""
    return Pool(kept(CACHE / "drift-hidden-2", _make))


CHANGES = (
    "none",
    "inputs 30 % longer",
    "5 % of words never seen",
    "a topic from 20 to 40 %",
    "the same words, shuffled",
)


def judge(sentences: Pool, seed: int, change: str, count: int) -> dict[str, int | None]:
    """Way -> the row at which it first says drift."""
    stream = days(sentences, seed, change, count)
    reference = next(stream)
    comparison = DriftComparison(reference, learners=[learn, hidden.learner(sentences.vectors)])
    names = [measure.measure for measure in comparison.state.measures]
    every, own = range(len(names)), sum(not name.startswith("hidden") for name in names)
    ways = {"words": every[:own], "hidden states": every[own:], "both": every}
    first: dict[str, int | None] = dict.fromkeys(ways)
    for row, text in enumerate((text for texts in stream for text in texts), 1):
        comparison.add([text])
        known = comparison.log_es
        for way, measures in ways.items():
            most = max(known[number] for number in measures) - math.log(len(measures))
            if first[way] is None and most >= -math.log(ALPHA):
                first[way] = row
        if None not in first.values():
            break
    return first


def days(
    sentences: Pool, seed: int, change: str, count: int, reference: int = 400, a_day: int = 40
) -> Iterator[list[str]]:
    """The reference rows, then the rows of each day; none comes twice."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(sentences.plain))
    first, rest = order[:reference], order[reference:]
    yield [sentences.plain[number] for number in first]
    kind = {"5 % of words never seen": "new words", "the same words, shuffled": "other order"}.get(change)
    new = count * a_day
    if kind is None:
        longer = 1.3 if "longer" in change else 1.0
        share = 0.4 if "topic" in change else 0.2
        weights = sentences.weights(longer, seed % len(PACKAGES), share)[rest]
        # the largest keys of Efraimidis & Spirakis (2006): a weighted draw without putting back, in its order
        keys = np.log(draw.random(len(rest))) / weights
        texts = [sentences.plain[number] for number in rest[np.argsort(-keys)[:new]]]
    else:
        made = sentences.changed[kind]
        texts = [made[number] for number in rest if number in made][:new]
    for start in range(0, new, a_day):
        yield texts[start : start + a_day]


def _make(draft: Path) -> None:
    draw = random.Random(0)
    plain: dict[str, int] = {}
    for topic, package in enumerate(PACKAGES):
        found = [text for text in dict.fromkeys(_sentences(package)) if text not in plain]
        draw.shuffle(found)
        if len(found) < OF_EACH:
            raise SystemExit(f"{package} has {len(found)} sentences; expected at least {OF_EACH}")
        plain.update(dict.fromkeys(found[:OF_EACH], topic))
    known = {word for text in plain for word in words(text)}
    kinds: dict[str, Any] = {"plain": list(plain), "topics": list(plain.values())}
    for kind, change in (("new words", partial(_with_new_words, known)), ("other order", _in_other_order)):
        numbers = draw.sample(range(len(plain)), CHANGED)
        kinds[kind] = {number: change(draw, kinds["plain"][number]) for number in numbers}
    (draft / "texts.json").write_text(json.dumps(kinds), "utf-8")
    texts = [*plain, *kinds["new words"].values(), *kinds["other order"].values()]
    with tempfile.TemporaryDirectory() as base:
        resolve({}, BaseConfig(source=SMOLLM2), Path(base))
        vectors = hidden.read(Path(base), list(dict.fromkeys(texts)))
    np.save(draft / "vectors.npy", np.array([vectors[text] for text in texts]))


def _sentences(package: str) -> Iterator[str]:
    """First sentences of docstrings, in the order of the files."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed")
    for file in sorted(Path(spec.origin).parent.rglob("*.py")):
        try:
            tree = ast.parse(file.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                sentence = " ".join(re.split(r"(?<=[.!?])\s|\n\s*\n", text)[0].split())
                if _FROM <= len(words(sentence)) <= _UPTO and sentence.isascii():
                    yield sentence


def _with_new_words(known: set[str], draw: random.Random, text: str) -> str:
    """The text with 5 % of its words replaced by invented ones, in the mean over texts."""
    return " ".join(_invented(known, draw) if draw.random() < 0.05 else word for word in text.split())


def _invented(known: set[str], draw: random.Random) -> str:
    while True:
        syllables = (draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(2, 4)))
        word = "".join(syllables) + draw.choice("lnrst")
        if word not in known:
            return word


def _in_other_order(draw: random.Random, text: str) -> str:
    parts = text.split()
    draw.shuffle(parts)
    return " ".join(parts)
