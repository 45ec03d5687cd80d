"""ROUGE-L, chrF and BLEU give what the packages that people cite give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from stages.config.metrics import BleuMetric, ChrfMetric, RougeMetric
from stages.scoring.scorer import Scorer
from stages.scoring.similarity import rouge_l_f1
from stages.statistics.corpus import value_of

ANSWERS = ["The cat sat on the mat.", "He said: hello, world!", "", "A b c d e f g h"]
REFERENCES = [
    ["The cat sat on a mat.", "A cat was on the mat."],
    ["He said hello to the world!", "hello, world"],
    ["something", "else"],
    ["A b c d x f g h i j", "a b"],
]
WORDS = st.lists(st.sampled_from(["a", "b", "c", "Don't", "x_y", "3.5", "!"]), max_size=12).map(" ".join)


@given(WORDS, WORDS)
def test_rouge_l_is_that_of_rouge_score(answer: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert rouge_l_f1(answer, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("text", "words"), [("Привет, мир", 2), ("北京市", 3), ("día", 1)])
def test_rouge_l_reads_all_scripts(text: str, words: int) -> None:
    assert rouge_l_f1(text, text) == 1.0
    assert rouge_l_f1(f"{text} x", text) == pytest.approx(2 * words / (2 * words + 1))


def test_the_best_reference_counts() -> None:
    scorer = Scorer([RougeMetric()], [["x", "a b"]])
    assert scorer.score("a b", ["x", "a b"]).scores == {"rouge_l": 1.0}
    assert scorer.units == {"rouge_l": "of 1"}


@pytest.mark.parametrize("order", [0, 2])
def test_chrf_is_that_of_sacrebleu(order: int) -> None:
    scorer = Scorer([ChrfMetric(word_order=order)], REFERENCES)
    for answer, references in zip(ANSWERS, REFERENCES, strict=True):
        expected = CHRF(word_order=order).sentence_score(answer, references).score
        assert scorer.score(answer, references).scores["chrf"] == expected


@pytest.mark.parametrize("settings", [{}, {"lowercase": True}, {"tokenize": "char"}])
def test_bleu_of_all_items_is_that_of_sacrebleu(settings: dict[str, object]) -> None:
    scorer = Scorer([BleuMetric.model_validate(settings)], REFERENCES)
    counts = [
        scorer.score(answer, references).counts["bleu"]
        for answer, references in zip(ANSWERS, REFERENCES, strict=True)
    ]
    expected = BLEU(**settings).corpus_score(ANSWERS, list(zip(*REFERENCES, strict=True))).score
    assert value_of("bleu", counts) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_bleu_of_any_items_is_that_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    """Also where nothing matches, and where answers are too short for four words."""
    scorer = Scorer([BleuMetric()], [[reference] for _, reference in pairs])
    counts = [scorer.score(answer, [reference]).counts["bleu"] for answer, reference in pairs]
    answers, references = zip(*pairs, strict=True)
    expected = BLEU().corpus_score(list(answers), [list(references)]).score
    assert value_of("bleu", counts) == pytest.approx(expected, abs=1e-9)
