"""Answers that have to fit a JSON schema: before each token, those that cannot follow are ruled out.

llguidance does it, in the engine's process, with a bound on each of its steps: what a schema costs is
counted in items and states, not in seconds, so that the same request is refused on a busy machine and on an
idle one. At its bounds a step takes a few milliseconds; a usual one 0.1 ms.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from typing import Any

import llama_cpp as low
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from serving.llama_cpp import bindings
from serving.openai_api.fields import JsonObject

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    max_grammar_size=100_000,
    max_items_in_row=2_000,
    step_max_items=50_000,
    step_lexer_fuel=20_000,
    max_lexer_states=10_000,
    verbose_errors=False,
)
"""Of one schema, and of one step; a lexer's state takes 1 to 2 kB."""
BETWEEN = r"(\n[ \t]{0,32}| )?"
"""Space that an answer may have between its parts: models without more to say fill an answer with it."""
SPACED: Any = {"whitespace_pattern": BETWEEN, "lenient": False}
"""llguidance's settings of a JSON schema."""
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
"""Line and column of a grammar that the client has not written."""


class SchemaRefused(ValueError):
    """The schema uses what is not done, contradicts itself, or takes too much."""


class Constraints:
    """Compiles schemas for one vocabulary. Making it takes 0.2 s for 49,000 tokens."""

    def __init__(self, vocabulary: Any, ends: Sequence[int]) -> None:
        """`vocabulary`: llama.cpp's; `ends`: the tokens that end an answer."""
        tokenize = ctypes.cast(low.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
        self._tokens: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # has no stub
            tokens=[_spelling(vocabulary, token) for token in range(low.llama_vocab_n_tokens(vocabulary))],
            vocab_ptr=vocabulary,
            tokenize_fptr=tokenize,
            eos_token=list(ends),
            slices=LLTokenizer.json_slices(),
        )

    def schema(self, schema: JsonObject) -> Constraint:
        """The answer is JSON that fits it. Takes 1 ms for a usual schema, 200 ms for one at the bounds.

        Raises `SchemaRefused`.
        """
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACED)
        except ValueError as error:
            raise SchemaRefused(str(error)[:200]) from None
        return self._compiled(grammar)

    def grammar(self, lark: str) -> Constraint:
        """The answer fits a grammar in llguidance's form. Raises `SchemaRefused`."""
        return self._compiled(LLMatcher.grammar_from_lark(lark))

    def _compiled(self, grammar: str) -> Constraint:
        return Constraint(
            LLMatcher(self._tokens, grammar, log_level=0, limits=LIMITS), self._tokens.vocab_size
        )


class Constraint:
    """What of one answer may come next. One thread at a time may use it."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(-(-vocabulary // 32), np.int32)
        self._vocabulary = vocabulary
        self._require_fine()
        self._compute()  # what is too much from the beginning is refused before anybody waits

    def rule_out(self, logits: NDArray[np.float32]) -> None:
        """Set `logits` [vocabulary] of what cannot follow to minus infinity, in place."""
        self._compute()
        possible = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: self._vocabulary]
        logits[: self._vocabulary][possible == 0] = -np.inf
        logits[self._vocabulary :] = -np.inf

    def accept(self, token: int) -> bool:
        """Go on with this token; returns whether the answer is complete. Raises `SchemaRefused`."""
        self._matcher.consume_token(token)
        self._require_fine()
        return self._matcher.is_stopped()

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._require_fine()

    def _require_fine(self) -> None:
        if self._matcher.is_error():
            why = self._matcher.get_error().partition("\n")[0]
            raise SchemaRefused(_PLACE.sub("", why)[:200])


def _spelling(vocabulary: Any, token: int) -> bytes:
    """The token's bytes in an answer; a byte that no text has is put before the name of one that has none."""
    text: bytes = low.llama_vocab_get_text(vocabulary, token)
    return bindings.piece(vocabulary, token) or b"\xff" + text
