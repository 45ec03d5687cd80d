"""The test split of a prepared dataset as an lm-eval task, rendered exactly as in training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from stages.backends.chat import LastTurn, last_turn
from stages.backends.evaluate.token_lm import EDGE, TokenLM
from stages.config.evaluate import MOST_CHOICES, HeldoutTask
from stages.errors import InvalidInput

FRESH = "fresh"
PREPARED = "what the prepare stage writes"


@dataclass(frozen=True)
class Answers:
    """The distinct answers of a dataset; `compared`: of each what lies between what all of them share."""

    answers: list[str]
    prefix: str
    suffix: str
    compared: list[str]


class HeldoutItems(ConfigurableTask):
    """Generate each row's last message; with `choice`, also weigh every answer that the dataset knows.

    Metrics, each 0 or 1 per item: `exact_match` (white space at the ends aside, and the fixed text that a
    template puts before an answer); `json_valid` where all targets are JSON (the answer parses);
    `choice_acc` (the target is the likeliest of all answers). Prompt and answer are rendered here by the
    same function as in training, so lm-eval must not apply a chat template again.
    """

    def __init__(self, task: HeldoutTask, dataset: Path, lm: TokenLM) -> None:
        rows = _read(dataset / f"{task.split}.parquet", task.max_items)
        turns = [last_turn(lm.tokenizer, row) for row in rows]
        documents = [
            {
                "prompt": turn.prompt,
                "target": row[-1]["content"],
                "messages": json.dumps(row, ensure_ascii=False),
            }
            for row, turn in zip(rows, turns, strict=True)
        ]
        self.contexts = {
            document["messages"]: _context(turn) for document, turn in zip(documents, turns, strict=True)
        }
        # as the engine reads its own tokens back: what the template begins an answer with, and all of it
        self.taught = {
            document["messages"]: (_read_back(turn.opening, lm), _read_back(turn.opening + turn.content, lm))
            for document, turn in zip(documents, turns, strict=True)
        }
        self.json_targets = all(_parses(document["target"]) for document in documents)
        self._answers = _distinct_answers(dataset, rows[0], lm) if task.choice else None
        metrics = ["exact_match", *["json_valid"] * self.json_targets, *["choice_acc"] * task.choice]
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
                    {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics
                ],
                "num_fewshot": 0,
            }
        )

    @property
    def choice(self) -> dict[str, object] | None:
        """What `results.json` says of the answers that are compared."""
        shown = ("answers", "prefix", "suffix")
        return {name: getattr(self._answers, name) for name in shown} if self._answers else None

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
        generated, target = str(results[0]).strip(), doc["target"].strip()
        opening, taught = self.taught[doc["messages"]]
        answer = generated.removeprefix(opening).strip()
        scores = {"exact_match": float(answer == target or generated == taught)}
        if self.json_targets:
            scores["json_valid"] = float(_parses(answer))
        if self._answers is not None:
            likelihoods = [likelihood for likelihood, _ in results[1:]]
            best = self._answers.answers[likelihoods.index(max(likelihoods))]
            scores["choice_acc"] = float(best.strip() == target)
        return scores


def system_message(dataset: Path) -> str | None:
    """The system message that every row of the test split begins with, if there is one."""
    messages = {
        row[0]["content"] if row[0]["role"] == "system" else None for row in _read(dataset / "test.parquet")
    }
    return messages.pop() if len(messages) == 1 else None


def _read(file: Path, limit: int | None = None) -> list[list[dict[str, str]]]:
    if not file.is_file():
        expected = "a feed, the only source with a split of its new rows" if file.stem == FRESH else PREPARED
        raise InvalidInput(f"{file.name} is not in the dataset; expected {expected}")
    rows: list[list[dict[str, str]]] = pq.read_table(file, columns=["messages"])["messages"].to_pylist()
    if file.stem == FRESH and not rows:
        raise InvalidInput(
            "no row that came since the live model's data is held out: add rows to the feed, then run again"
        )
    if file.stem == "test" and not rows:
        raise InvalidInput("the dataset's test split is empty; prepare it with split.test above 0")
    return rows[:limit]


def _context(turn: LastTurn) -> str:
    """What the answer itself follows."""
    return f"{turn.prompt}{EDGE if turn.apart else ''}{turn.opening}"


def _read_back(text: str, lm: TokenLM) -> str:
    return lm.tok_decode(lm.tok_encode(text)).strip() if text else ""


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _distinct_answers(dataset: Path, row: Sequence[Mapping[str, str]], lm: TokenLM) -> Answers:
    """The dataset's distinct answers, and what of them has to be compared after a shared beginning.

    A shared end is left out where the answers differ without it; where one answer begins another, the end
    of the turn is compared too, or the shorter one would always win.
    """
    fresh = dataset / f"{FRESH}.parquet"
    files = [dataset / "train.parquet", dataset / "test.parquet", *([fresh] if fresh.is_file() else [])]
    answers = sorted({chat[-1]["content"] for file in files for chat in _read(file)})
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
