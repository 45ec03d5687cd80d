"""A sweep in words: what was tried, what it scored, how far the best is ahead; and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any, get_args

from flows.report.rows import score_of
from flows.sweep.outcome import Difference, SweepOutcome, Trial
from flows.sweep.record import Ending
from flows.sweep.space import SECTION, shown


def head(found: SweepOutcome) -> list[str]:
    """The columns of the table of trials."""
    of = f"{found.asked} {found.metric}"
    return ["trial", "ended", of, "best ahead by", "validation loss", *(_short(key) for key in keys(found))]


def rows(found: SweepOutcome) -> list[list[str]]:
    """A row for each trial: the measured ones first, the best on top, then the others as they came."""
    ranked = found.whole
    others = [trial for trial in found.trials if trial.score is None]
    return [_row(trial, found) for trial in (*ranked, *others)]


def keys(found: SweepOutcome) -> list[str]:
    """The keys that were searched."""
    return list(found.trials[0].values) if found.trials else []


def sentences(found: SweepOutcome) -> list[str]:
    """What the sweep came to, each figure with what it was measured on."""
    said = [_counted(found)]
    best = found.best
    if best is None or best.score is None:
        return said
    untuned = f", the base as it is {score_of(found.untuned)}" if found.untuned else ""
    said.append(
        f"Trial {best.number} has the best {found.asked} {found.metric} on the validation rows: "
        f"{score_of(best.score)}{untuned} (n={best.score['n']}; in brackets: 95% intervals)."
    )
    said += _ahead(found)
    said.append(
        f"The best of {len(found.whole)} scores looks better than it is. The test rows, which no trial has "
        "read, say what it is worth."
    )
    return said


def command(found: SweepOutcome, recipe: str, overrides: Sequence[str] = ()) -> str | None:
    """How the best trial's recipe is run by itself; None where there is none."""
    if found.best is None:
        return None
    texts = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in found.best.values.items())]
    return " ".join(["tuneline run", shlex.quote(recipe), *(f"--set {shlex.quote(text)}" for text in texts)])


def document(found: SweepOutcome) -> dict[str, Any]:
    """The sweep as JSON values."""
    best, ahead = found.best, found.lead
    return {
        "recipe": found.name,
        "task": found.asked,
        "metric": found.metric,
        "folder": str(found.folder) if found.folder else None,
        "dataset": found.dataset.id if found.dataset else None,
        "base": found.untuned,
        "best": best.number if best else None,
        "trials": [_trial(trial, found) for trial in found.trials],
        "told_apart": ahead.told_apart if ahead else None,
        "ahead_of_base": vars(ahead.base) if ahead and ahead.base else None,
    }


def _trial(trial: Trial, found: SweepOutcome) -> dict[str, Any]:
    behind = _behind(trial, found)
    return {
        "trial": trial.number,
        "values": dict(trial.values),
        "ended": trial.ending,
        "score": trial.score,
        "validation_losses": dict(trial.losses),
        "adapter": trial.adapter.id if trial.adapter else None,
        "evaluation": trial.evaluation.id if trial.evaluation else None,
        "best_ahead_by": vars(behind) if behind else None,
        "note": trial.note,
    }


def _behind(trial: Trial, found: SweepOutcome) -> Difference | None:
    return found.lead.others.get(trial.number) if found.lead else None


def _row(trial: Trial, found: SweepOutcome) -> list[str]:
    behind, losses = _behind(trial, found), list(trial.losses.values())
    loss = trial.loss if trial.loss is not None else losses[-1] if losses else None
    return [
        str(trial.number),
        trial.ending,
        str(score_of(trial.score)) if trial.score else "–",
        "the best" if trial is found.best else _lead(behind) if behind else "–",
        f"{loss:.4g}" if loss is not None else "–",
        *(shown(value) for value in trial.values.values()),
    ]


def _counted(found: SweepOutcome) -> str:
    counts = ((found.count(ending), ending) for ending in get_args(Ending))
    said = ", ".join(f"{count} {ending}" for count, ending in counts if count)
    several = "trial was" if len(found.trials) == 1 else "trials were"
    left = found.trials_asked - len(found.trials)
    rest = f", {left} are left" if left else ""
    return f"{len(found.trials)} {several} looked at ({said or 'none ended'}){rest}."


def _ahead(found: SweepOutcome) -> list[str]:
    """What the lead over the others, and over the base, may be beside chance."""
    said: list[str] = []
    lead = found.lead
    if lead is None:
        return said
    if lead.others:
        second, difference = next(iter(lead.others.items()))
        count, told = len(lead.others), lead.told_apart
        shown_worse = f"{told} of the {count} others {'is' if told == 1 else 'are'} shown to be worse"
        if count == 1:
            shown_worse = f"trial {second} is {'' if told else 'not '}shown to be worse"
        elif not told:
            shown_worse = f"none of the {count} others is shown to be worse: among them the choice is chance"
        said.append(f"It is ahead of the next, trial {second}, by {_bounds(difference)}; {shown_worse}.")
    if lead.base is not None:
        said.append(f"It is ahead of the base as it is by {_bounds(lead.base)}.")
    return said


def _bounds(difference: Difference) -> str:
    if difference.effect is None:
        return f"an unknown amount ({difference.why})"
    low, high = _ends(difference)
    return (
        f"{_figure(difference.effect, difference)} on {difference.n} paired items (with "
        f"{100 * (1 - difference.alpha):.4g} % confidence at least {low}, at most {high})"
    )


def _lead(difference: Difference) -> str:
    if difference.effect is None:
        return "not comparable"
    low, high = _ends(difference)
    return f"{_figure(difference.effect, difference)} ({low} to {high})"


def _ends(difference: Difference) -> tuple[str, str]:
    low, high = (_figure(end, difference) for end in (difference.low, difference.high))
    return low.removesuffix(" points"), high.removesuffix(" points")


def _figure(value: float | None, difference: Difference) -> str:
    assert value is not None
    return f"{100 * value:+.1f} points" if difference.binary else f"{value:+.4g}"


def _short(key: str) -> str:
    return key.removeprefix(f"{SECTION}.")
