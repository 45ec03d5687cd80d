"""Time the steps of a model as the scheduler takes them: `python -m serving.llama_cpp.step_times MODEL …`
prints the result as JSON.

A step of so many tokens, with the choice of the next ones, in contexts that are nearly empty; and what each
token of earlier context adds, to a next token and to a token of a prompt. Within a time box: what would not
fit in it is left out, and sizes that were timed speak for larger ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp as low

from serving.llama_cpp.blank_adapter import write_blank_adapter
from serving.llama_cpp.model import BATCH_TOKENS, LlamaModel
from serving.llama_cpp.sampling import Sampling
from serving.timing import TimeBox

ROWS = (1, 2, 4, 8, 16)
PROMPTS = (32, 128, BATCH_TOKENS)
FILLED = BATCH_TOKENS
"""Tokens of context with which a step is timed again."""
TOKEN = 100
"""Any; what it costs does not depend on it."""


class StepTimer:
    """Steps of `model`, timed while there is time."""

    def __init__(self, model: LlamaModel, sequences: int, box: TimeBox) -> None:
        self._model, self._box = model, box
        self._samplers = [model.sampler(Sampling()) for _ in range(sequences)]
        self.disturbed = False
        self._each = 0.0

    def rows(self, count: int, filled: int = 0) -> float | None:
        """Seconds of a step with the next token of `count` answers after `filled` tokens each."""
        model, samplers = self._model, self._samplers[:count]

        def step() -> None:
            model.decode([(TOKEN, filled, row, True) for row in range(count)])
            for row, sampler in enumerate(samplers):
                token = sampler.choose(row)
                model.ends(token)
                model.piece(token)
            for row in range(count):
                model.forget(row, filled)

        return self._timed(step, count)

    def prompt(self, tokens: int, filled: int = 0) -> float | None:
        """Seconds of a step that reads so many tokens of one prompt after `filled` others."""
        model = self._model

        def step() -> None:
            model.forget(0, filled)
            model.decode([(TOKEN, filled + i, 0, i == tokens - 1) for i in range(tokens)])

        return self._timed(step, tokens)

    def fill(self, sequences: int) -> None:
        """Give all sequences the context of the first."""
        for sequence in range(1, sequences):
            self._model.forget(sequence)
            low.llama_memory_seq_cp(self._model._memory, 0, sequence, -1, -1)

    def _timed(self, step: Callable[[], None], tokens: int) -> float | None:
        if self._each and self._each * tokens > self._box.left:
            self._box.pieces -= 1
            return None
        timing = self._box.time(step)
        self.disturbed |= timing.disturbed
        self._each = timing.seconds / tokens
        return timing.seconds


def measure(model: LlamaModel, sequences: int, seconds: float) -> dict[str, Any]:
    """`rows` and `prompt`: pairs of tokens and seconds of a step; `row_context` and `prompt_context`:
    seconds that each token of context adds to one token; `disturbed`: others had the cores."""
    rows = [count for count in ROWS if count < sequences] + [sequences]
    box = TimeBox(seconds, len(rows) + len(PROMPTS) + 2)
    timer = StepTimer(model, sequences, box)
    stepped = [(count, timer.rows(count)) for count in rows]
    prompted = [(tokens, timer.prompt(tokens)) for tokens in PROMPTS]
    row_context = prompt_context = 0.0
    if prompted[-1][1] is not None:
        later = timer.prompt(PROMPTS[1], FILLED)
        if later is not None and prompted[1][1] is not None:
            prompt_context = max(0.0, (later - prompted[1][1]) / (PROMPTS[1] * FILLED))
        model.forget(0, FILLED)
        timer.fill(sequences)
        filled = timer.rows(sequences, FILLED)
        if filled is not None and stepped[-1][1] is not None:
            row_context = max(0.0, (filled - stepped[-1][1]) / (sequences * FILLED))
    return {
        "rows": [pair for pair in stepped if pair[1] is not None],
        "prompt": [pair for pair in prompted if pair[1] is not None],
        "row_context": row_context,
        "prompt_context": prompt_context,
        "disturbed": timer.disturbed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--sequences", type=int, default=4, help="answers decoded at once")
    parser.add_argument("--rank", type=int, default=0, help="of the adapter beside it; 0: none")
    parser.add_argument("--threads", type=int, help="default: llama.cpp's own")
    parser.add_argument("--seconds", type=float, default=8.0, help="of the time box, without loading")
    given = parser.parse_args()
    model = LlamaModel(given.model, FILLED + PROMPTS[1] + 1, given.sequences, given.threads)
    with tempfile.TemporaryDirectory() as folder:
        if given.rank:
            file = Path(folder) / "adapter.gguf"
            write_blank_adapter(given.model, given.rank, file)
            model.use(model.load_adapter(file))
        print(json.dumps(measure(model, given.sequences, given.seconds)))
    model.close()


if __name__ == "__main__":
    main()
