"""The trials of a sweep, on a run whose trainings take no time: what is done, chosen, ended, done again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.recipe import load
from flows.sweep.config import Pruning, Range, SweepConfig
from flows.sweep.outcome import Lead, SweepOutcome
from flows.sweep.record import TRIALS
from flows.sweep.space import parameters
from flows.sweep.sweep import FOLDER, Plan
from flows.sweep.table import command, document, head, rows, sentences
from flows.sweep.target import target
from stages.errors import InvalidInput, StageError
from tests.flows.sweep.imagined import DIVERGES_ABOVE, ITEMS, ImaginedRun, distance, searched


def told(found: SweepOutcome) -> list[tuple[Any, ...]]:
    """What of each trial has to be the same however often the sweep was stopped."""
    return [(t.number, t.values, t.ending, t.losses, t.score, t.note) for t in found.trials]


def test_the_best_on_validation_rows_is_chosen(tmp_path: Path) -> None:
    run = ImaginedRun(tmp_path)
    found, error = searched(run)
    assert error is None
    assert [trial.number for trial in found.trials] == list(range(1, 13))
    best = found.best
    assert best is not None
    assert best.score is not None
    assert best.score["value"] == max(t.score["value"] for t in found.trials if t.score is not None)
    for trial in found.trials:
        diverged = trial.values["train.learning_rate"] > DIVERGES_ABOVE
        assert trial.ending == ("diverged" if diverged else "whole")
        assert (trial.note == "") == (not diverged)
    labels = [row.label for row in run.rows]
    assert labels[:3] == ["resolve base", "prepare data", "evaluate base on validation"]
    place = labels.index(f"trial {best.number}: train adapter")
    assert labels[place + 1] == f"trial {best.number}: evaluate on validation"
    assert "failed" not in {row.state for row in run.rows}, "a trial that diverges is no failure of the sweep"
    assert found.folder is not None
    assert found.folder.parent == tmp_path / FOLDER


def test_a_second_sweep_does_nothing_again(tmp_path: Path) -> None:
    first = ImaginedRun(tmp_path)
    found, _ = searched(first)
    again = ImaginedRun(tmp_path, first.made)
    same, _ = searched(again)
    assert told(same) == told(found)
    assert again.trained == []
    assert {row.state for row in again.rows} == {"reused"}
    more = ImaginedRun(tmp_path, first.made)
    longer, _ = searched(more, trials=14)
    assert told(longer)[:12] == told(found)
    assert [label.partition(":")[0] for label in more.trained] == ["trial 13", "trial 14"]
    other = ImaginedRun(tmp_path, first.made)
    searched(other, seed=1)
    assert other.trained, "another seed draws other values"


@pytest.mark.parametrize("stop_after", [1, 7, 8, 20])
@pytest.mark.parametrize("pruning", [None, Pruning()])
def test_a_sweep_that_was_stopped_comes_to_the_same(
    tmp_path: Path, stop_after: int, pruning: Pruning | None
) -> None:
    whole, _ = searched(ImaginedRun(tmp_path / "whole"), 14, pruning)
    broken = ImaginedRun(tmp_path / "broken", stop_after=stop_after)
    part, error = searched(broken, 14, pruning)
    assert isinstance(error, KeyboardInterrupt)
    assert told(part) == told(whole)[: len(part.trials)]
    found, error = searched(ImaginedRun(tmp_path / "broken", broken.made), 14, pruning)
    assert error is None
    assert told(found) == told(whole)


def test_trainings_that_are_behind_are_ended_and_not_begun_again(tmp_path: Path) -> None:
    run = ImaginedRun(tmp_path)
    found, _ = searched(run, 20, Pruning())
    pruned = [trial for trial in found.trials if trial.ending == "pruned"]
    assert pruned
    assert all(trial.number > 4 for trial in pruned), "four are trained whole first"
    for trial in pruned:
        assert 1 <= len(trial.losses) <= 3
        assert trial.score is None
        assert "worse than the median of the trials that were trained whole" in trial.note
    best = found.best
    assert best is not None
    apart = [distance(trial.values["train.learning_rate"]) for trial in pruned]
    assert distance(best.values["train.learning_rate"]) < min(apart)
    again = ImaginedRun(tmp_path, run.made)
    same, _ = searched(again, 20, Pruning())
    assert told(same) == told(found)
    assert again.trained == []


def test_one_that_was_killed_before_it_could_be_ended_is_ended(tmp_path: Path) -> None:
    run = ImaginedRun(tmp_path)
    found, _ = searched(run, 20, Pruning())
    assert found.folder is not None
    file = found.folder / TRIALS
    lines = file.read_text().splitlines()
    ends = next(k for k, line in enumerate(lines) if json.loads(line).get("ended") == "pruned")
    file.write_text("\n".join(lines[:ends]) + "\n")
    number = json.loads(lines[ends])["trial"]
    again = ImaginedRun(tmp_path, run.made)
    same, _ = searched(again, number, Pruning())
    assert told(same) == told(found)[:number]
    assert again.trained == []


def test_without_validation_rows_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.flows.sweep.imagined.ITEMS", 0)
    run = ImaginedRun(tmp_path)
    found, error = searched(run)
    assert isinstance(error, InvalidInput)
    assert "the dataset's validation split is empty" in str(error)
    assert (found.trials, run.trained) == ([], [])


class Failing(ImaginedRun):
    """Every training ends with this error."""

    error: Exception = StageError("no layer is called q_prjo")

    def _train(self, config: Any, label: str) -> dict[str, Any]:
        self.trained.append(label)
        raise self.error


def test_trials_that_all_fail_end_the_sweep(tmp_path: Path) -> None:
    run = Failing(tmp_path)
    found, error = searched(run)
    assert str(error) == "3 trials failed one after the other; the last one: no layer is called q_prjo"
    assert len(found.trials) == 3
    mended = ImaginedRun(tmp_path, run.made)
    again, error = searched(mended)
    assert error is None
    assert [trial.values for trial in again.trials[:3]] == [trial.values for trial in found.trials]
    assert mended.trained[0] == "trial 1: train adapter", (
        "what failed for another reason may do the next time"
    )
    alone, error = searched(Failing(tmp_path / "alone"), trials=1)
    assert str(error) == "none of 1 trials could be measured; the last one: no layer is called q_prjo"
    assert alone.best is None


def test_the_lead_is_said_with_what_chance_may_be_of_it(tmp_path: Path) -> None:
    found, _ = searched(ImaginedRun(tmp_path))
    lead, best = found.lead, found.best
    assert lead is not None
    assert best is not None
    assert best.score is not None
    assert lead.base is not None
    assert lead.base.effect == best.score["value"]
    assert lead.base.told_apart
    ranked = [trial for trial in found.whole if trial.number in lead.others]
    assert list(lead.others) == [trial.number for trial in ranked], "the next best first"
    for trial in ranked:
        difference = lead.others[trial.number]
        assert trial.score is not None
        assert difference.effect == pytest.approx(best.score["value"] - trial.score["value"])
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low <= difference.effect <= difference.high
        assert difference.alpha == pytest.approx(0.05 / len(ranked))
        assert (difference.n, difference.binary) == (ITEMS, True)
    near, far = (lead.others[trial.number] for trial in (ranked[0], ranked[-1]))
    assert (near.told_apart, far.told_apart) == (False, True)
    words = " ".join(sentences(found))
    assert words.startswith("12 trials were looked at (")
    assert f"Trial {best.number} has the best routing exact_match on the validation rows: " in words
    assert f"It is ahead of the next, trial {ranked[0].number}, by +" in words
    assert f"{lead.told_apart} of the {len(ranked)} others " in words
    assert f"The best of {len(found.whole)} scores looks better than it is." in words
    found.lead = Lead({ranked[0].number: near}, lead.base)
    assert f"; trial {ranked[0].number} is not shown to be worse." in " ".join(sentences(found))
    found.lead = Lead(dict.fromkeys((ranked[0].number, 99), near), lead.base)
    assert "; none of the 2 others is shown to be worse: among them" in " ".join(sentences(found))


def test_each_setting_is_tried_once(tmp_path: Path) -> None:
    search = {"train.learning_rate": (1e-2, 1e-3, 1e-4), "train.lora.rank": Range(low=4, high=5)}
    run = ImaginedRun(tmp_path)
    found, error = searched(run, 12, search=search)
    assert error is None
    tried = {tuple(trial.values.values()) for trial in found.trials}
    assert len(found.trials) == len(tried) == len(run.trained) == 6
    assert "there are 6 settings to try; each is tried once" in run.notes
    assert sentences(found)[0] == "6 trials were looked at (6 whole)."
    again = ImaginedRun(tmp_path, run.made)
    same, _ = searched(again, 12, search=search)
    assert (told(same), again.trained) == (told(found), [])


def test_equal_scores_are_told_apart_by_the_loss_and_then_by_the_order(tmp_path: Path) -> None:
    found, _ = searched(ImaginedRun(tmp_path))
    first = found.best
    assert first is not None
    twin, worse = replace(first, number=99), replace(first, number=0, loss=9.0)
    equal = SweepOutcome("demo", "routing", "exact_match", 3, trials=[worse, twin, first])
    assert [trial.number for trial in equal.whole] == [first.number, 99, 0]
    equal.comparable = False
    assert [trial.number for trial in equal.whole] == [0, first.number, 99]


def test_table_and_json(tmp_path: Path) -> None:
    found, _ = searched(ImaginedRun(tmp_path), 8)
    table, best = rows(found), found.best
    assert best is not None
    assert head(found) == [
        "trial", "ended", "routing exact_match", "best ahead by", "validation loss", "learning_rate",
        "lora.rank",
    ]  # fmt: skip
    assert next(row[0] for row in table) == str(best.number)
    assert {len(row) for row in table} == {len(head(found))}
    assert table[0][3] == "the best"
    tree = json.loads(json.dumps(document(found)))
    assert (tree["best"], len(tree["trials"])) == (best.number, 8)
    assert tree["trials"][best.number - 1]["best_ahead_by"] is None
    rate = best.values["train.learning_rate"]
    assert command(found, "my recipe.yaml", ["train.epochs=2"]) == (
        f"tuneline run 'my recipe.yaml' --set train.epochs=2 --set train.learning_rate={rate} "
        f"--set train.lora.rank={best.values['train.lora.rank']}"
    )
    nothing = SweepOutcome("demo", "routing", "exact_match", 3)
    assert (sentences(nothing), rows(nothing)) == (
        ["0 trials were looked at (none ended), 3 are left."],
        [],
    )
    assert command(nothing, "demo") is None


@pytest.mark.parametrize(
    ("method", "key", "values", "comparable"),
    [
        ("dpo", "train.dpo.beta", (0.1, 0.3), False),
        ("dpo", "train.dpo", ({"beta": 0.3}, {"epochs": 2}), False),
        ("dpo", "train.dpo.learning_rate", (1e-5, 1e-6), True),
        ("kto", "train.kto.desirable_weight", (1.0, 1.3), False),
        ("kto", "train.kto.epochs", (1, 2), True),
        ("orpo", "train.orpo.weight", (0.1, 0.3), False),
    ],
)
def test_losses_are_not_compared_where_a_key_changes_what_they_are(
    method: str, key: str, values: tuple[Any, ...], comparable: bool
) -> None:
    form = "unpaired-preferences" if method == "kto" else "preferences"
    recipe = load("demo", [f"prepare.format={form}", f"train.method={method}"])
    config = SweepConfig(recipe="demo", search={key: values})
    plan = Plan(config, recipe, parameters(config.values, recipe), target(recipe, None))
    assert plan.comparable is comparable
