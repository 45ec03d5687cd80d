"""What a simulated engine answers, where each step takes what the test says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flows.planning.serving import simulation
from flows.planning.serving.simulation import Load, Outcome, at_most, at_rate
from serving.llama_cpp import model, scheduler


@dataclass(frozen=True)
class Fixed:
    """`once` for each pass, `each` for each of its tokens, `cell` for each token of context."""

    once: float = 1.0
    each: float = 0.0
    cell: float = 0.0
    mixes: bool = False

    def seconds(self, rows: int, each: int, context: int) -> float:
        return self.once + self.each * rows * each + self.cell * context


def test_turns_and_batches_are_the_engines() -> None:
    assert (simulation.TURN_STEPS, simulation.BATCH_TOKENS) == (scheduler.TURN_STEPS, model.BATCH_TOKENS)


def test_one_answer_after_the_other_takes_its_passes() -> None:
    found = at_most(Fixed(), Load(1, 100, 10, slots=1))
    assert found.rate == pytest.approx(1 / 10), "the prompt's pass writes the first of ten tokens"
    assert (found.first[0], found.whole[-1]) == (1, 10)
    longer = at_most(Fixed(), Load(1, 1030, 10, slots=1))
    assert longer.rate == pytest.approx(1 / 12), "a prompt of 1,030 tokens is three passes"


def test_answers_of_one_adapter_share_passes_and_those_of_several_do_not() -> None:
    alone = at_most(Fixed(), Load(1, 8, 40, slots=1)).rate
    together = at_most(Fixed(), Load(1, 8, 40, slots=4)).rate
    assert 3.5 * alone < together <= 4 * alone
    apart = at_most(Fixed(), Load(1000, 8, 40, slots=4)).rate
    assert alone * 0.9 < apart < 1.2 * alone
    mixed = at_most(Fixed(mixes=True), Load(1000, 8, 40, slots=4)).rate
    assert mixed > 3.5 * alone


def test_tokens_and_context_cost_what_they_take() -> None:
    found = at_most(Fixed(once=0, each=1), Load(1, 100, 10, slots=1))
    assert found.rate == pytest.approx(1 / 109)
    found = at_most(Fixed(once=0, cell=1), Load(1, 100, 3, slots=1), requests=8)
    # half of the prompt inside its own pass, then 100 to 102 earlier tokens in the mean of two steps
    assert found.rate == pytest.approx(1 / (50 + 2 * 101))


def test_few_requests_have_the_engine_to_themselves_and_many_wait() -> None:
    load = Load(1, 100, 10, slots=1)
    calm = at_rate(Fixed(), load, 0.0001, requests=50)
    assert calm.at(calm.whole, 0.99) == pytest.approx(10)
    busy = at_rate(Fixed(), load, 0.095, requests=300)
    assert busy.at(busy.whole, 0.5) > 20
    assert busy.at(busy.first, 0.99) < busy.at(busy.whole, 0.99)


def test_gaps_between_sequences_are_passes_of_their_own() -> None:
    engine = simulation.Engine(Fixed(), Load(1, 1, 1, slots=8))
    assert engine._runs([0, 1, 3, 4, 7]) == [[0, 1], [3, 4], [7]]
    assert simulation.Engine(Fixed(mixes=True), Load(1, 1, 1, slots=8))._runs([0, 3]) == [[0, 3]]


def test_the_share_of_a_sorted_list() -> None:
    times = [float(n) for n in range(100)]
    assert (Outcome.at(times, 0.5), Outcome.at(times, 0.99), Outcome.at([1.0], 0.99)) == (50, 99, 1)
