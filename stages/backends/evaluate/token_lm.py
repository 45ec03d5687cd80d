"""What every model under lm-eval has in common here: text in, token ids to an engine, scores out.

An engine (torch or llama.cpp) only has to read rows of tokens, add a token to each, and branch off
continuations; sorting, batching, stop strings, length checks and progress are the same for all, so
that two engines differ in their numbers only.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs

from stages.backends.chat import opening_of
from stages.backends.evaluate.choosing import Choose, likeliest
from stages.backends.evaluate.continuations import Row, Score, Tree
from stages.contract import progress
from stages.errors import Diverged, InvalidInput

Item = TypeVar("Item")
Request = tuple[tuple[str, str], list[int], list[int]]
BRANCH_TOKENS = 1024
"""Continuation tokens per call; each brings a row of logits as wide as the vocabulary."""
EDGE = "\ufdd0"
"""Stands in a context where a prompt ends and an answer begins that are tokenized apart (no character)."""


class TokenLM(TemplateLM):
    """An lm-eval model over an engine. Greedy to lm-eval; nothing is ever truncated.

    `tokenizer` renders chats; whether contexts are rendered chats (`rendered`) decides if special tokens
    are added: a chat template writes its own. `stop_ids` end a generation.
    """

    def __init__(
        self, tokenizer: Any, *, max_length: int, batch_size: int, stop_ids: frozenset[int], rendered: bool
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.stop_ids = stop_ids
        self.rendered = rendered
        self._device = torch.device("cpu")
        self._encoded = lru_cache(maxsize=8192)(self._tokenize)
        self._beginning: Row = ()

    @abc.abstractmethod
    def _tokenize(self, text: str, special: bool) -> Row:
        """Token ids. Special tokens in the text are read as such; `special` adds the vocabulary's own."""

    @abc.abstractmethod
    def tok_decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens."""

    @abc.abstractmethod
    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        """Forget everything, read the rows; float32 logits [rows, vocabulary] after each row's last token."""

    @abc.abstractmethod
    def _add(self, kept: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Keep only these of the current rows, add a token to each; float32 logits [kept, vocabulary]."""

    @abc.abstractmethod
    def _branch(self, parents: Sequence[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        """Logits [len(row), vocabulary] after each token of each row, read as continuing its parent row."""

    def _room(self) -> int:
        """Tokens that the engine can hold at once."""
        return 1 << 30

    def forget(self) -> None:
        """Read again what rows begin with: the model was changed."""
        self._beginning = ()

    def close(self) -> None:
        """Give the model's memory back; it cannot be asked afterwards."""

    def predictions(self, rows: Sequence[Row], last: Sequence[int]) -> Iterator[torch.Tensor]:
        """For each row, in order: float32 logits [n, vocabulary] that its last `n` tokens are predicted with.

        `last` holds the n of each row, 1 ≤ n < its length. Raises `InvalidInput` for a row longer than the
        context, `Diverged` for logits that are not finite.
        """
        for batch in self._in_order(rows, last):
            cuts = [len(rows[place]) - last[place] for place in batch]
            first = _finite(self._read([rows[place][:cut] for place, cut in zip(batch, cuts, strict=True)]))
            rests = [rows[place][cut:-1] for place, cut in zip(batch, cuts, strict=True)]
            longer = [k for k, rest in enumerate(rests) if rest]
            after = iter(self._branch(longer, [rests[k] for k in longer]) if longer else ())
            for k, rest in enumerate(rests):
                yield torch.cat([first[k : k + 1], _finite(next(after))]) if rest else first[k : k + 1]

    def _in_order(self, rows: Sequence[Row], last: Sequence[int]) -> Iterator[list[int]]:
        """Places of consecutive rows that can be read together."""
        for row in rows:
            self.check_length(str(row), len(row))
        sizes = [(len(row), n) for row, n in zip(rows, last, strict=True)]
        return self.batched(range(len(rows)), sizes, BRANCH_TOKENS)

    def batched(
        self, items: Sequence[Item], sizes: Sequence[tuple[int, int]], most: int
    ) -> Iterator[list[Item]]:
        """Consecutive items that fit together; `sizes`: tokens that each takes, and those it is asked for."""
        batch: list[Item] = []
        held = added = 0
        for item, (size, growth) in zip(items, sizes, strict=True):
            full = held + size > self._room() or added + growth > most
            if batch and (full or len(batch) == self.batch_size):
                yield batch
                batch, held, added = [], 0, 0
            batch.append(item)
            held, added = held + size, added + growth
        if batch:
            yield batch

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_gen_toks(self) -> int:
        return 256

    @property
    def tokenizer_name(self) -> str:
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """With the assistant's header, and with what the template writes before an answer, as in training."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return f"{text}{opening_of(self.tokenizer) if add_generation_prompt else ''}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not self.rendered and not has_bos_prefix(string, bos)
        first, *rest = string.split(EDGE)
        ids = list(self._encoded(first, add_special_tokens))
        return ids + [token for part in rest for token in self._encoded(part, False)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if EDGE not in context:
            return super()._encode_pair(context, continuation)
        ids = self.tok_encode(context)
        return ids, self.tok_encode(context + continuation)[len(ids) :]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Score]:
        scores: list[Score] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        owners, windows = [], []
        for index, (text,) in enumerate(request.args for request in requests):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                owners.append(index)
                windows.append((("", text), *utils.make_disjoint_window(window)))
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        return totals

    def _loglikelihood_tokens(self, requests: list[Request], **_: object) -> list[Score]:
        """Sum of log-softmax over the continuation's tokens, and whether each was the likeliest.

        A context is read once for all its continuations, and a beginning that several share once.
        """
        groups: dict[Row, list[int]] = {}
        for index, (texts, ids, continuation) in enumerate(requests):
            self.check_length(texts[0], len(ids) + len(continuation) - 1)
            groups.setdefault(tuple(ids), []).append(index)
        scores: dict[int, Score] = {}
        trees = {
            context: Tree([tuple(requests[index][2]) for index in members])
            for context, members in groups.items()
        }
        for done, batch in self._batches(groups, {c: trees[c].tokens for c in trees}, BRANCH_TOKENS):
            for context, group in zip(batch, self._score(batch, [trees[c] for c in batch]), strict=True):
                scores.update(zip(groups[context], group, strict=True))
            progress(done, len(groups), "items scored")
        return [scores[index] for index in range(len(requests))]

    def _score(self, contexts: Sequence[Row], trees: Sequence[Tree]) -> list[list[Score]]:
        first = _finite(self._read(contexts))
        parents = [index for index, tree in enumerate(trees) for _ in tree.rows]
        rows = [row for tree in trees for row in tree.rows]
        after = [_finite(logits) for logits in self._branch(parents, rows)] if rows else []
        scores = []
        for index, tree in enumerate(trees):
            mine = [logits for logits, parent in zip(after, parents, strict=True) if parent == index]
            scores.append(tree.scores(first[index : index + 1], mine))
        return scores

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, cut before the first stop string and at the tokens that end a turn."""
        groups: dict[tuple[tuple[str, ...], int], dict[Row, list[int]]] = {}
        for index, request in enumerate(requests):
            until, limit = self._greedy(request.args[1])
            prompt = tuple(self.tok_encode(request.args[0]))
            self.check_length(request.args[0], len(prompt) + limit)
            groups.setdefault((until, limit), {}).setdefault(prompt, []).append(index)
        answers: dict[int, str] = {}
        for (until, limit), prompts in groups.items():
            for _, batch in self._batches(prompts, dict.fromkeys(prompts, limit)):
                for prompt, answer in zip(batch, self.answer(batch, until, limit), strict=True):
                    answers.update(dict.fromkeys(prompts[prompt], answer))
                progress(len(answers), len(requests), "items answered")
        return [answers[index] for index in range(len(requests))]

    def _greedy(self, wanted: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
        kwargs = normalize_gen_kwargs(dict(wanted), self.max_gen_toks)
        if kwargs["do_sample"]:
            raise InvalidInput(
                f"the task asks for sampling ({dict(wanted)}); only greedy answers can be compared item by "
                "item: set do_sample: false and temperature: 0 in the task"
            )
        return tuple(kwargs["until"]), kwargs["max_gen_toks"]

    def answer(
        self, prompts: Sequence[Row], until: Sequence[str], limit: int, choose: Choose = likeliest
    ) -> list[str]:
        """The answer to each prompt, of at most `limit` tokens, read together."""
        written: list[list[int]] = [[] for _ in prompts]
        texts = [""] * len(prompts)
        alive = list(range(len(prompts)))
        logits = _finite(self._read(prompts))
        while True:
            kept = []
            for place, token in enumerate(choose(logits, alive)):
                row = alive[place]
                if token in self.stop_ids:
                    continue
                written[row].append(token)
                texts[row] = self.tok_decode(written[row])
                if len(written[row]) < limit and not any(stop in texts[row] for stop in until):
                    kept.append(place)
            if not kept:
                return [_cut(text, until) for text in texts]
            alive = [alive[place] for place in kept]
            logits = _finite(self._add(kept, [written[row][-1] for row in alive]))

    def _batches(
        self, rows: Mapping[Row, object], growth: Mapping[Row, int], most: int = 1 << 30
    ) -> Iterator[tuple[int, list[Row]]]:
        """Rows of similar length, the longest first, that grow by at most `most` tokens together.

        With each batch comes how many rows are done after it.
        """
        ordered = sorted(rows, key=lambda row: (-len(row), row))
        done = 0
        for batch in self.batched(ordered, [(len(row) + growth[row], growth[row]) for row in ordered], most):
            done += len(batch)
            yield done, batch

    def check_length(self, context: str, tokens: int) -> None:
        if tokens > self.max_length:
            key = hashlib.sha256(context.encode()).hexdigest()[:12]
            raise InvalidInput(
                f"item with prompt {key} ({context[:60]!r}…) needs {tokens} tokens with its answer, the "
                f"context holds {self.max_length}; raise context_length if the model allows it, or drop it"
            )


def _finite(logits: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise Diverged(
            "the model gives NaN or infinite logits; see the merge's range figures, or use bfloat16 instead "
            "of float16"
        )
    return logits


def _cut(text: str, until: Sequence[str]) -> str:
    return text[: min((text.index(stop) for stop in until if stop in text), default=len(text))]
