"""What Optuna is asked: the same values whether or not a sweep was killed, and a median rule on losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flows.sweep.config import Pruning
from flows.sweep.space import Parameter
from flows.sweep.study import AskedTrial, Study

SPACE = (
    Parameter("train.learning_rate", "float", low=1e-5, high=1e-2, log=True),
    Parameter("train.lora.rank", "int", low=4, high=64),
    Parameter("train.lora.target_modules", "choice", ("all-linear", ["q_proj", "v_proj"], ["o_proj"])),
)


def study(seed: int = 0, startup: int = 3, pruning: Pruning | None = None) -> Study:
    return Study(SPACE, seed, startup, pruning)


def score(values: Mapping[str, Any]) -> float:
    """Best at 1e-3; more rank is a little better."""
    return -abs(math.log10(values["train.learning_rate"]) + 3) + values["train.lora.rank"] / 1000


def tried(asking: Study, count: int, known: list[AskedTrial] | None = None) -> list[AskedTrial]:
    """So many trials, the first ones as they are `known`."""
    found = []
    for number in range(count):
        asked = asking.ask(known[number].drawn if known and number < len(known) else None)
        if number % 4 == 3:
            asking.failed(asked)
        else:
            asking.whole(asked, score(asked.values))
        found.append(asked)
    return found


def test_values_are_of_the_space() -> None:
    for asked in tried(study(), 8):
        rate, rank, modules = asked.values.values()
        assert 1e-5 <= rate <= 1e-2
        assert 4 <= rank <= 64
        assert type(rank) is int
        assert modules in SPACE[2].choices


def test_the_values_follow_from_the_seed() -> None:
    first = [asked.values for asked in tried(study(), 12)]
    assert first == [asked.values for asked in tried(study(), 12)]
    assert len({str(values) for values in first}) == 12, "each trial has a draw of its own"
    assert first != [asked.values for asked in tried(study(seed=1), 12)]


def test_a_sweep_that_was_killed_draws_on_as_if_it_was_not() -> None:
    whole = tried(study(), 12)
    again = tried(study(), 12, known=whole[:7])
    assert [asked.values for asked in again] == [asked.values for asked in whole]


def test_it_draws_nearer_to_what_was_good() -> None:
    def distance(trials: list[AskedTrial]) -> float:
        return sum(abs(math.log10(asked.values["train.learning_rate"]) + 3) for asked in trials) / len(trials)

    found = tried(study(startup=8), 40)
    assert distance(found[24:]) < distance(found[:8])


def ended(asking: Study, losses: list[float]) -> int | None:
    """After which of its losses a trial is behind; None where it is trained whole."""
    asked = asking.ask()
    for number, loss in enumerate(losses, start=1):
        if asked.validated(number, loss):
            asking.poor(asked)
            return number
    asking.whole(asked, -losses[-1])
    return None


def test_a_training_that_is_behind_the_median_is_ended() -> None:
    asking = study(pruning=Pruning())
    assert [ended(asking, [loss, loss - 0.5]) for loss in (3.0, 2.0, 1.0)] == [None] * 3
    assert ended(asking, [2.5, 0.1]) == 1, "worse than 2.0, the median at that point"
    assert ended(asking, [1.9, 1.8]) == 2, "better than the median at first, then worse than 1.5"
    assert ended(asking, [1.0, 0.5]) is None
    assert ended(asking, [math.nan, 0.1]) == 1


def test_none_is_ended_before_there_is_something_to_compare_with() -> None:
    asking = study(startup=4, pruning=Pruning())
    assert [ended(asking, [loss]) for loss in (1.0, 2.0, 3.0, 4.0)] == [None] * 4
    later = study(startup=1, pruning=Pruning(after=2))
    assert ended(later, [1.0, 1.0]) is None
    assert ended(later, [9.0, 9.0]) == 2
    never = study(startup=1)
    assert ended(never, [1.0]) is None
    assert ended(never, [9.0]) is None


def test_a_loss_that_was_told_is_not_told_again() -> None:
    asking = study(pruning=Pruning())
    asked = asking.ask()
    assert [asked.validated(1, 2.0), asked.validated(1, 2.0)] == [False, False]  # Optuna would warn
