"""Several answers to each item, drawn from what the model would say.

Every engine hands its logits over, so one function draws for all of them. Each answer has a seed of its own,
made of the evaluation's seed, the item and the answer's number: it depends on no batch, no other item and no
model, so two models that are compared draw with the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from registry.artifacts import digest
from registry.evaluation_results import Drawn, Item
from stages.backends.evaluate.choosing import by_seeds
from stages.backends.evaluate.heldout import HeldoutItems
from stages.backends.evaluate.token_lm import TokenLM
from stages.config.evaluate import HeldoutTask
from stages.config.sample import SampleConfig, pass_scores, passable
from stages.config.user_metric import PythonMetric
from stages.contract import progress
from stages.scoring.user_function import user_scores
from stages.statistics.pass_at import pass_at_k

_SEED_DIGITS = 13
"""Hexadecimal digits of a seed: it stays a whole number in every reader of JSON."""


class Wanted(NamedTuple):
    """An answer that is to be drawn: tokens of its prompt, and its seed."""

    prompt: tuple[int, ...]
    seed: int


def seed_of(seed: int, key: str, number: int) -> int:
    """The seed of an item's answer, from the evaluation's, the item's `key` and the answer's number."""
    return int(digest([seed, key, number])[:_SEED_DIGITS], 16)


def add_drawn(lm: TokenLM, heldout: HeldoutItems, task: HeldoutTask, seed: int, items: list[Item]) -> None:
    """Draw the answers of `task.sample`, and put them and pass@k into each item."""
    sample = task.sample
    if sample is None:
        return
    keys = [heldout.keys[item["document"]] for item in items]
    prompts = [tuple(lm.tok_encode(heldout.prompts[key])) for key in keys]
    wanted = [
        Wanted(prompt, seed_of(seed, key, number))
        for key, prompt in zip(keys, prompts, strict=True)
        for number in range(sample.answers)
    ]
    texts = draw(lm, wanted, sample, task.max_new_tokens)
    owners = [key for key in keys for _ in range(sample.answers)]
    scores = _scores(heldout, task, owners, texts)
    for place, item in enumerate(items):
        mine = range(place * sample.answers, (place + 1) * sample.answers)
        drawn: list[Drawn] = [{"seed": wanted[k].seed, "answer": texts[k], "scores": scores[k]} for k in mine]
        item["drawn"] = drawn
        for name, (k, score) in pass_scores(sample, task.metrics).items():
            right = sum(one["scores"][score] == 1 for one in drawn)
            item["scores"][name] = pass_at_k(sample.answers, right, k)


def draw(lm: TokenLM, wanted: Sequence[Wanted], sample: SampleConfig, limit: int) -> list[str]:
    """The text of each answer, of at most `limit` tokens.

    Raises `InvalidInput` for a prompt that does not fit the context with them, `Diverged` for logits that are
    not finite.
    """
    for one in wanted:
        lm.check_length(str(one.prompt), len(one.prompt) + limit)
    order = sorted(range(len(wanted)), key=lambda k: (-len(wanted[k].prompt), wanted[k].prompt, k))
    sizes = [(len(wanted[k].prompt) + limit, limit) for k in order]
    texts: dict[int, str] = {}
    for batch in lm.batched(order, sizes, 1 << 30):
        choose = by_seeds([wanted[k].seed for k in batch], sample.temperature, sample.top_p)
        found = lm.answer([wanted[k].prompt for k in batch], (), limit, choose)
        texts.update(zip(batch, found, strict=True))
        progress(len(texts), len(wanted), "answers drawn")
    return [texts[k] for k in range(len(wanted))]


def _scores(
    heldout: HeldoutItems, task: HeldoutTask, owners: Sequence[str], texts: Sequence[str]
) -> list[Mapping[str, float]]:
    """Of each drawn answer whether it is right, by each metric that says so; `owners`: the items' keys."""
    wanted = passable(task.metrics)
    found = [heldout.scored(key, text) for key, text in zip(owners, texts, strict=True)]
    scores = [{name: one.scores[name] for name in wanted if name in one.scores} for one in found]
    for metric in task.metrics:
        if isinstance(metric, PythonMetric) and metric.name in wanted:
            answered = [
                heldout.answered[key]._replace(answer=heldout.answer_of(key, text))
                for key, text in zip(owners, texts, strict=True)
            ]
            for one, score in zip(scores, user_scores(metric, answered), strict=True):
                one[metric.name] = score
    return list(scores)
