"""Held-out rows of a prepared dataset as an lm-eval task, rendered exactly as in training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from registry.artifacts import digest
from registry.evaluation_results import Item
from stages.backends.chat import LastTurn, last_turn
from stages.backends.evaluate.prompts import FRESH, VALIDATION, Chat, HeldoutItem, each_row, items_of
from stages.backends.evaluate.token_lm import EDGE, TokenLM
from stages.config.evaluate import MOST_CHOICES, HeldoutTask
from stages.config.metrics import ExactMetric
from stages.errors import InvalidInput
from stages.scoring.documents import parses
from stages.scoring.item import Counts, ItemScore
from stages.scoring.scorer import Scorer
from stages.scoring.user_function import Answered

EXACT = "exact_match"


@dataclass(frozen=True)
class Answers:
    """The distinct answers of a dataset; `compared`: of each what lies between what all of them share."""

    answers: list[str]
    prefix: str
    suffix: str
    compared: list[str]


class HeldoutItems(ConfigurableTask):
    """Generate each row's last message; with `choice`, also weigh every answer that the dataset knows.

    Besides what the task's metrics say of the answer, each 0 or 1 per item: `exact_match` (white space at the
    ends aside, and the fixed text that a template puts before an answer); `json_valid` where all targets are
    JSON (the answer parses); `choice_acc` (the target is the likeliest of all answers). Prompt and answer are
    rendered here by the same function as in training, so lm-eval must not apply a chat template again.
    """

    def __init__(self, task: HeldoutTask, dataset: Path, lm: TokenLM) -> None:
        items = items_of(task, dataset)
        rows = [item.messages for item in items]
        turns = [last_turn(lm.tokenizer, row) for row in rows]
        _let_calls_be_written(lm, rows, turns)
        several = any(len(item.references) > 1 for item in items)
        documents = [_document(item, turn, several) for item, turn in zip(items, turns, strict=True)]
        self.keys = keys = [document["messages"] for document in documents]
        self.items = dict(zip(keys, items, strict=True))
        self.targets = _targets(documents, items)
        self.prompts = dict(zip(keys, (turn.prompt for turn in turns), strict=True))
        self.contexts = dict(zip(keys, map(_context, turns), strict=True))
        # as the engine reads its own tokens back: what the template begins an answer with, and all of it
        self.taught = {
            key: (_read_back(turn.opening, lm), _read_back(turn.opening + turn.content, lm))
            for key, turn in zip(keys, turns, strict=True)
        }
        self._clusters = task.turns == "all"
        self.exact = any(isinstance(metric, ExactMetric) for metric in task.metrics)
        self.scorer = Scorer(task.metrics, [item.references for item in items])
        self.counts: dict[str, Counts] = {}
        self.answered: dict[str, Answered] = {}
        self.json_targets = all(parses(document["target"]) for document in documents)
        self._answers = _distinct_answers(dataset, rows[0], lm, task.split) if task.choice else None
        super().__init__(
            config={
                "task": task.name,
                "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(documents)},
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": "prompt",
                "doc_to_target": "target",
                "generation_kwargs": {"until": [], "max_gen_toks": task.max_new_tokens, "do_sample": False},
                "process_results": self.process_results,
                "metric_list": [
                    {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                    for metric in self._each_item(task.choice)
                ],
                "num_fewshot": 0,
            }
        )

    def _each_item(self, choice: bool) -> dict[str, None]:
        """The scores that every item has."""
        own = [name for name in self.scorer.units if name not in self.scorer.corpus]
        known = [EXACT, *["json_valid"] * self.json_targets, *["choice_acc"] * choice]
        return dict.fromkeys([*known, *own])

    @property
    def choice(self) -> dict[str, object] | None:
        """What `results.json` says of the answers that are compared."""
        shown = ("answers", "prefix", "suffix")
        return {name: getattr(self._answers, name) for name in shown} if self._answers else None

    def cluster(self, document: Mapping[str, str]) -> str | None:
        """A digest that the items of one chat share; None where each chat is one item."""
        return digest(self.items[document["messages"]].chat) if self._clusters else None

    def add_own(self, row: Item, key: str) -> None:
        """Add what only held-out rows have: counts, several right answers, slices."""
        item = self.items[key]
        if counts := self.counts.get(key):
            row["counts"] = counts
        if len(item.references) > 1:
            row["references"] = item.references
        if item.slices:
            row["slices"] = item.slices

    def doc_to_text(self, doc: Mapping[str, str], _: object = None) -> str:
        return doc["prompt"]

    def doc_to_target(self, doc: Mapping[str, str], _: object = None) -> str:
        return doc["target"]

    def construct_requests(self, doc: Mapping[str, str], ctx: str, **known: Any) -> list[Instance]:
        settings = {"doc": doc, "metadata": known["metadata"]}
        generation = Instance(
            request_type="generate_until",
            arguments=(doc["prompt"], dict(self.config.generation_kwargs)),
            idx=0,
            **settings,
        )
        if self._answers is None:
            return [generation]
        context = self.contexts[doc["messages"]] + self._answers.prefix
        return [generation] + [
            Instance(request_type="loglikelihood", arguments=(context, middle), idx=index, **settings)
            for index, middle in enumerate(self._answers.compared, start=1)
        ]

    def process_results(self, doc: Mapping[str, str], results: Sequence[Any]) -> dict[str, float]:
        key, generated = doc["messages"], str(results[0])
        found = self.scored(key, generated)
        scores = dict(found.scores)
        if self._answers is not None:
            likelihoods = [likelihood for likelihood, _ in results[1:]]
            best = self._answers.answers[likelihoods.index(max(likelihoods))]
            scores["choice_acc"] = float(best.strip() in self.targets[key])
        right, chat = self.items[key].references, self.items[key].messages
        self.answered[key] = Answered(self.answer_of(key, generated), right, chat[:-1])
        if found.counts:
            self.counts[key] = found.counts
        return scores

    def answer_of(self, key: str, generated: str) -> str:
        """What was generated without the fixed text that the template puts before an answer."""
        return generated.strip().removeprefix(self.taught[key][0]).strip()

    def scored(self, key: str, generated: str) -> ItemScore:
        """What a generated text scores as the answer to the item of `key`, by all metrics that need no other
        item."""
        answer = self.answer_of(key, generated)
        scores = {EXACT: float(answer in self.targets[key] or generated.strip() == self.taught[key][1])}
        if self.json_targets:
            scores["json_valid"] = float(parses(answer))
        found = self.scorer.score(answer, self.items[key].references)
        return ItemScore(scores | dict(found.scores), found.counts)


def _let_calls_be_written(lm: TokenLM, rows: Sequence[Chat], turns: Sequence[LastTurn]) -> None:
    """Have special tokens that stand within an expected call, such as its mark, not end the answer."""
    calls = [turn.content for row, turn in zip(rows, turns, strict=True) if row[-1].get("tool_calls")]
    lm.stop_ids -= {token for content in calls for token in lm.tok_encode(content)}


def _document(item: HeldoutItem, turn: LastTurn, several: bool) -> dict[str, str]:
    """What lm-eval gets of an item; of calls the target is as the template writes them.

    `several`: with the further right answers, which then are part of what the item is.
    """
    row = item.messages
    target = turn.content.strip() if row[-1].get("tool_calls") else row[-1]["content"]
    document = {"prompt": turn.prompt, "target": target, "messages": json.dumps(row, ensure_ascii=False)}
    if several:
        document["references"] = json.dumps(item.references[1:], ensure_ascii=False)
    return document


def _targets(documents: Sequence[Mapping[str, str]], items: Sequence[HeldoutItem]) -> dict[str, list[str]]:
    """Messages of each item → its right answers, white space at their ends aside."""
    return {
        document["messages"]: [document["target"].strip(), *(r.strip() for r in item.references[1:])]
        for document, item in zip(documents, items, strict=True)
    }


def _context(turn: LastTurn) -> str:
    """What the answer itself follows."""
    return f"{turn.prompt}{EDGE if turn.apart else ''}{turn.opening}"


def _read_back(text: str, lm: TokenLM) -> str:
    return lm.tok_decode(lm.tok_encode(text)).strip() if text else ""


def _known_answers(dataset: Path, split: str) -> list[str]:
    """The distinct answers of the dataset. Whoever asks the validation split sees nothing of the others that
    are held out: not even which answers they have."""
    fresh = [FRESH] if (dataset / f"{FRESH}.parquet").is_file() else []
    splits = ["train", VALIDATION] if split == VALIDATION else ["train", "test", *fresh]
    rows = itertools.chain.from_iterable(each_row(dataset / f"{name}.parquet") for name in splits)
    return sorted({chat[-1]["content"] for chat, _, _ in rows})


def _distinct_answers(
    dataset: Path, row: Sequence[Mapping[str, str]], lm: TokenLM, split: str = "test"
) -> Answers:
    """The dataset's distinct answers, and what of them has to be compared after a shared beginning.

    A shared end is left out where the answers differ without it; where one answer begins another, the end
    of the turn is compared too, or the shorter one would always win.
    """
    answers = _known_answers(dataset, split)
    if not 2 <= len(answers) <= MOST_CHOICES:
        raise InvalidInput(
            f"choice: true needs 2 to {MOST_CHOICES} distinct answers in the dataset, found {len(answers)}; "
            "set choice: false"
        )
    turns = [last_turn(lm.tokenizer, [*row[:-1], {**row[-1], "content": answer}]) for answer in answers]
    context, texts = _context(turns[0]), [turn.content for turn in turns]
    prefix = _shared_beginning(context, texts, lm)
    middles = [text[len(prefix) :] for text in texts]
    suffix = _common_beginning([middle[::-1] for middle in middles])[::-1]
    shorter = [middle.removesuffix(suffix) for middle in middles]
    if suffix and _tells_apart(shorter) and _same_tokens(context + prefix, shorter, middles, lm):
        middles = shorter
    elif not _tells_apart(middles):
        middles, suffix = [middle + turns[0].closing.strip() for middle in middles], ""
    else:
        suffix = ""
    return Answers(answers, prefix, suffix, middles)


def _common_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _shared_beginning(prompt: str, answers: Sequence[str], lm: TokenLM) -> str:
    """The longest beginning of all answers that ends where a token ends, whichever answer follows."""
    prefix = _common_beginning(answers)
    while prefix and (prefix in answers or not _same_tokens(prompt, [prefix] * len(answers), answers, lm)):
        prefix = prefix[:-1]
    return prefix


def _same_tokens(prompt: str, starts: Sequence[str], wholes: Sequence[str], lm: TokenLM) -> bool:
    """Whether each start is tokenized as it is within its whole."""
    return all(
        (ids := lm.tok_encode(prompt + start)) == lm.tok_encode(prompt + whole)[: len(ids)]
        for start, whole in zip(starts, wholes, strict=True)
    )


def _tells_apart(texts: Sequence[str]) -> bool:
    """No text begins another one, whose likelihood it would then contain."""
    ordered = sorted(texts)
    return all(ordered) and not any(b.startswith(a) for a, b in itertools.pairwise(ordered))
