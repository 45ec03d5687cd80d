"""How the next token is chosen, and how likely it and others were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp as low
import numpy as np
from numpy.typing import NDArray

from serving.llama_cpp.structured.constraints import Constraint
from serving.openai_api.request import CompletionRequest

SEED_STEP = 0x9E3779B1
"""From one answer's seed to the next one's; the largest seed of llama.cpp draws one, and is left out."""
COLDEST = 1e-5
"""Below it the likeliest token is taken; a logit divided by less may be more than a float can hold."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0: the likeliest. Penalties count the answer's tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    likeliest: int | None = None
    """Of so many tokens, the likeliest, and of the chosen one the probability is told; None: of none."""


def sampling_of(wanted: CompletionRequest, index: int) -> Sampling:
    """How the answer of that index is drawn. With a seed, the first is as it would be alone."""
    seed = None if wanted.seed is None else (wanted.seed + index * SEED_STEP) % low.LLAMA_DEFAULT_SEED
    likeliest = wanted.likeliest
    return Sampling(**wanted.numbers, seed=seed, likeliest=likeliest)  # type: ignore[arg-type]  # top_k is whole


@dataclass(frozen=True)
class TokenScore:
    """Natural logarithms of probabilities by the model alone, before any setting or schema."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...]
    """Token and log-probability, from the likeliest on."""


class Sampler:
    """llama.cpp's samplers in the usual order: penalties, top-k, top-p, min-p, temperature, draw."""

    def __init__(
        self, context: Any, vocabulary: int, window: int, how: Sampling, constraint: Constraint | None
    ) -> None:
        self._context, self._vocabulary, self._constraint = context, vocabulary, constraint
        self.complete = False
        """Whether a constraint says that nothing can follow."""
        self.score: TokenScore | None = None
        """Of the last token, where it was asked for."""
        self._likeliest = how.likeliest
        self._chain = low.llama_sampler_chain_init(low.llama_sampler_chain_default_params())
        steps = []
        if (how.repetition_penalty, how.frequency_penalty, how.presence_penalty) != (1.0, 0.0, 0.0):
            steps.append(
                low.llama_sampler_init_penalties(
                    vocabulary, window, how.repetition_penalty, how.frequency_penalty, how.presence_penalty
                )
            )
        if how.temperature < COLDEST:
            steps.append(low.llama_sampler_init_greedy())
        else:
            if how.top_k:
                steps.append(low.llama_sampler_init_top_k(how.top_k))
            if how.top_p < 1:
                steps.append(low.llama_sampler_init_top_p(how.top_p, 1))
            if how.min_p:
                steps.append(low.llama_sampler_init_min_p(how.min_p, 1))
            steps.append(low.llama_sampler_init_temp(how.temperature))
            seed = low.LLAMA_DEFAULT_SEED if how.seed is None else how.seed
            steps.append(low.llama_sampler_init_dist(seed))
        for step in steps:
            low.llama_sampler_chain_add(self._chain, step)

    def choose(self, index: int) -> int:
        """The next token, from the logits of entry `index` of the last batch; penalties remember it.

        Raises `SchemaRefused` when a constraint takes too much.
        """
        if self._constraint is None and self._likeliest is None:
            return int(low.llama_sampler_sample(self._chain, self._context, index))
        pointer = low.llama_get_logits_ith(self._context, index)
        logits = np.ctypeslib.as_array(pointer, (self._vocabulary,))
        logprobs = None if self._likeliest is None else log_softmax(logits)
        if self._constraint is not None:
            self._constraint.rule_out(logits)
        token = int(low.llama_sampler_sample(self._chain, self._context, index))
        if self._constraint is not None:
            self.complete = self._constraint.accept(token)
        if logprobs is not None:
            self.score = TokenScore(float(logprobs[token]), likeliest(logprobs, self._likeliest or 0))
        return token

    def close(self) -> None:
        """Free it; once."""
        low.llama_sampler_free(self._chain)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities [vocabulary] of logits [vocabulary]."""
    shifted = logits.astype(np.float64) - logits.max()
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return found


def likeliest(logprobs: NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` tokens of the highest log-probability; of equal ones the lower token first."""
    if not count:
        return ()
    few = np.sort(np.argpartition(logprobs, -count)[-count:])
    order = few[np.argsort(-logprobs[few], kind="stable")]
    return tuple((int(token), float(logprobs[token])) for token in order)
