"""What Optuna is asked: the next values to try, and whether a training is behind the others.

Its study lives in memory and is told again what happened whenever a sweep starts; the record on disk is ours
(`flows.sweep.record`). Each trial is drawn by a sampler of its own, seeded with the trial's number: a sweep
that was killed draws on as one that was not.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from flows.sweep.config import Pruning
from flows.sweep.space import Parameter

PROPOSALS = 10
"""Times that TPE is asked for values that no trial had."""


@dataclass(frozen=True)
class AskedTrial:
    """A trial that was proposed. `drawn`: key → number, of a list of values the place in it; `values`: what
    the recipe gets."""

    trial: Any
    drawn: Mapping[str, float]
    values: Mapping[str, Any]
    _reported: set[int] = field(default_factory=set)

    def validated(self, number: int, loss: float) -> bool:
        """Tell its validation loss of this number, counted from 1; whether the training is behind.

        The study is maximized, so that it gets losses with the sign changed: the median rule is the same.
        """
        if number in self._reported:
            return False
        self._reported.add(number)
        if not math.isfinite(loss):
            return True
        self.trial.report(-loss, number)
        return bool(self.trial.should_prune())


class Study:
    """The trials of one sweep, as Optuna sees them: scores, of which more is better."""

    def __init__(
        self, parameters: Sequence[Parameter], seed: int, startup: int, pruning: Pruning | None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._parameters, self._seed, self._startup = parameters, seed, startup
        self._distributions = {p.key: _distribution(p) for p in parameters}
        median = None if pruning is None else MedianPruner(startup, n_warmup_steps=pruning.after)
        self._study = optuna.create_study(
            direction="maximize", sampler=self._sampler(0), pruner=median or NopPruner()
        )
        self._asked = 0
        self._seen: set[tuple[float, ...]] = set()

    def ask(self, drawn: Mapping[str, float] | None = None) -> AskedTrial:
        """The next trial; with values that were `drawn` before, or with values that no trial had.

        Of a space of `combinations(parameters)` settings there are no more trials to ask for.
        """
        trial = self._new() if drawn is None else self._with(drawn)
        self._asked += 1
        found = self._found(trial)
        self._seen.add(tuple(found.values()))
        values = {p.key: _value(p, found[p.key]) for p in self._parameters}
        return AskedTrial(trial, found, values)

    def _with(self, drawn: Mapping[str, float]) -> optuna.Trial:
        self._study.enqueue_trial(dict(drawn))
        return self._study.ask(self._distributions)

    def _new(self) -> optuna.Trial:
        """TPE likes what scored well so much that it proposes it again: then others are drawn, by TPE a few
        times and at random from there on."""
        for attempt in itertools.count():
            random = attempt >= PROPOSALS
            self._study.sampler = self._sampler(self._asked, attempt, random)
            trial = self._study.ask(self._distributions)
            if tuple(self._found(trial).values()) not in self._seen:
                return trial
            self._study.tell(trial, state=TrialState.FAIL)
        raise AssertionError("a count has no end")

    def _found(self, trial: optuna.Trial) -> dict[str, float]:
        return {p.key: _number(p, trial.params[p.key]) for p in self._parameters}

    def whole(self, asked: AskedTrial, score: float) -> None:
        """The trial was trained and measured."""
        self._study.tell(asked.trial, score)

    def poor(self, asked: AskedTrial) -> None:
        """Its training was ended early, or diverged: others are drawn elsewhere."""
        self._study.tell(asked.trial, state=TrialState.PRUNED)

    def failed(self, asked: AskedTrial) -> None:
        """It came to nothing, which says nothing of its values."""
        self._study.tell(asked.trial, state=TrialState.FAIL)

    def _sampler(self, trial: int, attempt: int = 0, random: bool = False) -> BaseSampler:
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}:{trial}:{attempt}".encode()).digest()[:4])
        if random:
            return RandomSampler(seed=seed)
        return TPESampler(n_startup_trials=self._startup, seed=seed)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """A list is drawn from by place: Optuna takes no lists and sections as values."""
    if parameter.kind == "choice":
        return CategoricalDistribution(tuple(range(len(parameter.choices))))
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _number(parameter: Parameter, drawn: Any) -> float:
    return float(drawn) if parameter.kind == "float" else int(drawn)


def _value(parameter: Parameter, drawn: float) -> Any:
    return parameter.choices[int(drawn)] if parameter.kind == "choice" else drawn
