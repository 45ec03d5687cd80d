"""How alike two texts are: ROUGE-L, chrF, BLEU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from stages.config.metrics import BleuMetric, ChrfMetric, RougeMetric
from stages.scoring.item import CorpusMetric, ItemScore, ReadyMetric, single

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def rouge_l(metric: RougeMetric) -> ReadyMetric:
    """F1 of the longest common subsequence of words (Lin 2004, W04-1013, section 3), without stemming."""

    def score(answer: str, references: Sequence[str]) -> float:
        return max(rouge_l_f1(answer, reference) for reference in references)

    return single(metric.name, score, "of 1")


def rouge_l_f1(answer: str, reference: str) -> float:
    """0 to 1. On ASCII the words, and so the figure, are those of the package rouge-score; letters of other
    scripts, which that leaves out, are words too, and each character of scripts without spaces is one."""
    said, wanted = _words(answer), _words(reference)
    if not said or not wanted:
        return 0.0
    common = _longest_common(said, wanted)
    return 2 * common / (len(said) + len(wanted))


def chrf(metric: ChrfMetric) -> ReadyMetric:
    """sacrebleu's sentence chrF (Popović 2015, W15-3049; chrF++ 2017, W17-4770)."""
    from sacrebleu.metrics import CHRF

    scorer = CHRF(word_order=metric.word_order)

    def score(answer: str, references: Sequence[str]) -> float:
        return float(scorer.sentence_score(answer, list(references)).score)

    return single(metric.name, score, "of 100")


def bleu(metric: BleuMetric) -> ReadyMetric:
    """The counts of sacrebleu's BLEU (Papineni et al. 2002, P02-1040; Post 2018, W18-6319)."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize=metric.tokenize, lowercase=metric.lowercase, effective_order=True)

    def score(answer: str, references: Sequence[str]) -> ItemScore:
        found = scorer.sentence_score(answer, list(references))
        counts = (found.sys_len, found.ref_len, *found.counts, *found.totals)
        return ItemScore(counts={metric.name: tuple(float(count) for count in counts)})

    return ReadyMetric(score, {metric.name: "of 100"}, {metric.name: CorpusMetric("bleu", metric.name)})


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a machine word of bits at a time (Crochemore et al. 2001,
    Information Processing Letters 80:279)."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(one) - row.bit_count()
