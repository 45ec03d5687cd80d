"""`tuneline drift`: new inputs beside those that a model was trained on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.drift.comparison import DriftComparison, DriftState
from flows.drift.inputs import new_rows, trained_on
from flows.errors import InvalidRecipe, Usage
from flows.formatting import from_log10, short
from flows.gates.ancestry import ancestry
from flows.recipe import load
from flows.retraining.drifted import ask_schedules
from registry import Artifact, Registry
from registry.channels.channels import CHANNEL
from registry.errors import NotFound

_COLUMNS = ("measure", "trained on", "new", "e-value", "highest")


class _File(NamedTuple):
    """A file of new rows; `distinct`: those that are in none before. `state`: after it."""

    path: Path
    rows: int
    distinct: int
    state: DriftState


def drift(arguments: argparse.Namespace) -> Reply:
    """Compare, file by file; exit code 1 where drift is shown."""
    with open_registry() as registry:
        channel, dataset = _dataset(registry, arguments.of)
        comparison = DriftComparison(list(trained_on(registry.view(dataset.id))), arguments.alpha)
        files = list(_compared(comparison, arguments.new))
        state = comparison.state
        asked: list[str] = []
        if state.verdict == "drift" and channel is not None:
            about = {
                "what": "inputs",
                "channel": channel,
                "dataset": dataset.id,
                "first_row": state.first_row,
            }
            registry.webhooks.tell("drift", about, json.dumps(about, sort_keys=True))
            why = f"inputs of {channel} changed, strongest in: {_strongest(state)}"
            asked = ask_schedules(registry, channel, why)
    document = {
        "channel": channel,
        "asked": asked,
        "dataset": dataset.id,
        "files": [
            {**file._asdict(), "path": str(file.path), "state": file.state.model_dump(mode="json")}
            for file in files
        ],
        **state.model_dump(mode="json"),
    }

    def text() -> None:
        where = f" of {channel}" if channel else ""
        print(
            f"training data{where}: {short(dataset.id)}, {state.reference_rows:,} rows compared; "
            f"alarm at an e-value of {1 / state.alpha:g}"
        )
        _tables(files, state)
        print(_sentence(state))
        if asked:
            print(f"asked for a run: {', '.join(asked)}; `tuneline schedule run` or a worker does it")

    return Reply(document, text, 1 if state.verdict == "drift" else 0)


def _compared(comparison: DriftComparison, paths: Sequence[Path]) -> Iterator[_File]:
    """Each file, taken in; a row counts once, as in the training data."""
    compared = set[str]()
    for path in paths:
        texts = list(new_rows(path))
        distinct = [text for text in dict.fromkeys(texts) if text not in compared]
        compared.update(distinct)
        comparison.add(distinct)
        yield _File(path, len(texts), len(distinct), comparison.state)


def _tables(files: Sequence[_File], state: DriftState) -> None:
    rows = [
        (
            file.path.name,
            f"{file.rows:,}",
            f"{file.distinct:,}",
            from_log10(file.state.log10_e),
            _word(file.state),
        )
        for file in files
    ]
    print_table("", ("file", "rows", "distinct", "e-value", "verdict"), rows)
    measures = [
        (
            m.measure,
            f"{m.reference:.3g}",
            f"{m.new:.3g}",
            from_log10(m.log10_e),
            from_log10(m.highest_log10_e),
        )
        for m in state.measures
    ]
    print_table("", _COLUMNS, measures)


def _dataset(registry: Registry, of: str) -> tuple[str | None, Artifact]:
    """The channel that is meant, if one is, and the dataset that its model was trained on."""
    channel = of if CHANNEL.fullmatch(of) else None
    if channel is None and of.endswith((".yaml", ".yml")):
        recipe = load(of)
        if recipe.promote is None:
            raise InvalidRecipe(f"{of} promotes to no channel; name a channel, a model or a dataset")
        channel = recipe.promote.channel
    if channel is None:
        artifact = registry.get(of)
    else:
        current = registry.channels.get(channel)
        if current is None:
            raise NotFound(f"no channel {channel!r}; `tuneline channels` lists them")
        artifact = registry.get(current.artifact_id)
    if artifact.manifest.kind == "dataset":
        return channel, artifact
    dataset = ancestry(registry, artifact).dataset
    if dataset is None:
        raise Usage(f"{short(artifact.id)} was trained on nothing that the registry knows; name a dataset")
    return channel, dataset


def _word(state: DriftState) -> str:
    return state.verdict if state.first_row is None else f"drift since row {state.first_row:,}"


def _sentence(state: DriftState) -> str:
    risk = f"the risk of ever saying drift while there is none is {state.alpha:.0%}, however often one looks"
    if state.first_row is None:
        return f"no drift shown after {state.rows:,} rows; {risk}"
    return f"drift, first shown at row {state.first_row:,}, strongest in: {_strongest(state)}; {risk}"


def _strongest(state: DriftState) -> str:
    return max(state.measures, key=lambda measure: measure.highest_log10_e).measure
