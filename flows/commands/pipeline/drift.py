"""`tuneline drift`: new inputs beside those that a model was trained on, or what came of answers before and
since a moment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, NamedTuple

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.drift import hidden, outcomes
from flows.drift.comparison import DriftComparison, Learner, chosen
from flows.drift.evidence import DriftState
from flows.drift.inputs import answers_json, new_rows, trained_on
from flows.drift.measures import learn
from flows.errors import InvalidRecipe, Usage
from flows.formatting import from_log10, short
from flows.gates.ancestry import ancestry
from flows.recipe import load
from flows.retraining.drifted import ask_schedules
from flows.run.readers import remark
from registry import Artifact, Registry
from registry.channels.channels import CHANNEL
from registry.errors import NotFound


class _File(NamedTuple):
    """A file of new rows; `distinct`: those that are in none before. `state`: after it."""

    path: Path
    rows: int
    distinct: int
    state: DriftState


def drift(arguments: argparse.Namespace) -> Reply:
    """Compare; exit code 1 where drift is shown."""
    if arguments.outcomes and arguments.hidden_states:
        raise Usage("--hidden-states is about inputs, --outcomes about answers: leave one of them out")
    if arguments.since is not None and not arguments.outcomes:
        raise Usage("--since is for --outcomes; new inputs are compared with training data: leave it out")
    with open_registry() as registry:
        return _outcomes(registry, arguments) if arguments.outcomes else _inputs(registry, arguments)


def _inputs(registry: Registry, arguments: argparse.Namespace) -> Reply:
    """File by file."""
    channel = _channel(arguments.of)
    artifact = _artifact(registry, channel, arguments.of)
    dataset = _dataset(registry, artifact)
    reference = chosen(trained_on(registry.view(dataset.id)))
    new = [(path, list(new_rows(path))) for path in arguments.new]
    learners: list[Learner] = [learn]
    if arguments.hidden_states:
        texts = dict.fromkeys((*reference, *(text for _, rows in new for text in rows)))
        learners.append(_hidden(registry, artifact, list(texts)))
    comparison = DriftComparison(reference, arguments.alpha, learners)
    files = list(_compared(comparison, new))
    state = comparison.state
    about = {"what": "inputs", "channel": channel, "dataset": dataset.id, "first_row": state.first_row}
    asked = _tell(registry, channel, about, state) if state.verdict == "drift" else []
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
        _end(state, asked)

    return Reply(document, text, 1 if state.verdict == "drift" else 0)


def _outcomes(registry: Registry, arguments: argparse.Namespace) -> Reply:
    """The answers of a channel before a moment, and since."""
    channel = _channel(arguments.of)
    if channel is None:
        raise Usage(f"--outcomes: {arguments.of} is not a channel; name one, or the recipe of one")
    artifact = _artifact(registry, channel, arguments.of)
    moment = arguments.since or registry.channels.history(channel)[-1].at
    dataset = ancestry(registry, artifact).dataset
    as_json = dataset is not None and answers_json(registry.view(dataset.id))
    change = outcomes.compare(registry, channel, moment, arguments.alpha, as_json)
    state = change.state
    about = {"what": "outcomes", "channel": channel, "since": moment.isoformat()}
    shown = state.verdict == "drift"
    asked = _tell(registry, channel, about, state, ask=change.worse) if shown else []
    left_out = {name: dict(zip(("before", "since"), of, strict=True)) for name, of in change.left_out.items()}
    document = {
        "channel": channel,
        "asked": asked,
        "since": moment.isoformat(),
        "left_out": left_out,
        **state.model_dump(mode="json"),
    }

    def text() -> None:
        when = f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        print(f"answers of {channel} before {when}, and since; alarm at an e-value of {1 / state.alpha:g}")
        _print_outcomes(state)
        for name, (before, since) in change.left_out.items():
            print(f"not compared: {name}, of which there were {before} before, {since} since")
        _end(state, asked)

    return Reply(document, text, 1 if shown else 0)


def _tell(
    registry: Registry, channel: str | None, about: dict[str, Any], state: DriftState, ask: bool = True
) -> list[str]:
    """Tell webhooks, and ask schedules of the channel for a run; their names."""
    if channel is None:
        return []
    registry.webhooks.tell("drift", about, json.dumps(about, sort_keys=True))
    why = f"{about['what']} of {channel} changed, strongest in: {state.strongest.measure}"
    return ask_schedules(registry, channel, why) if ask else []


def _compared(comparison: DriftComparison, new: Sequence[tuple[Path, list[str]]]) -> Iterator[_File]:
    """Each file, taken in; a row counts once, as in the training data."""
    compared = set[str]()
    for path, texts in new:
        distinct = [text for text in dict.fromkeys(texts) if text not in compared]
        compared.update(distinct)
        comparison.add(distinct)
        yield _File(path, len(texts), len(distinct), comparison.state)


def _hidden(registry: Registry, artifact: Artifact, texts: list[str]) -> Learner:
    """Measures of the hidden states of the base that the artifact came from."""
    hidden.require_torch()
    base = ancestry(registry, artifact).base
    if base is None:
        raise Usage(
            f"--hidden-states: the registry does not know the base of {short(artifact.id)}; name a model or "
            "a dataset that was made here, or leave it out"
        )
    model = registry.view(base.id)
    remark(f"tuneline: reading {len(texts):,} texts with the base {short(base.id)} on the CPU")
    return hidden.learner(hidden.read(model, texts))


def _channel(of: str) -> str | None:
    """The channel that is meant, if one is."""
    if CHANNEL.fullmatch(of) or not of.endswith((".yaml", ".yml")):
        return of if CHANNEL.fullmatch(of) else None
    recipe = load(of)
    if recipe.promote is None:
        raise InvalidRecipe(f"{of} promotes to no channel; name a channel, a model or a dataset")
    return recipe.promote.channel


def _artifact(registry: Registry, channel: str | None, of: str) -> Artifact:
    if channel is None:
        return registry.get(of)
    current = registry.channels.get(channel)
    if current is None:
        raise NotFound(f"no channel {channel!r}; `tuneline channels` lists them")
    return registry.get(current.artifact_id)


def _dataset(registry: Registry, artifact: Artifact) -> Artifact:
    """What the artifact was trained on."""
    if artifact.manifest.kind == "dataset":
        return artifact
    dataset = ancestry(registry, artifact).dataset
    if dataset is None:
        raise Usage(f"{short(artifact.id)} was trained on nothing that the registry knows; name a dataset")
    return dataset


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
    print_table("", ("measure", "trained on", "new", "e-value", "highest"), measures)


def _print_outcomes(state: DriftState) -> None:
    rows = [
        (
            m.measure,
            f"{m.reference:.3g}",
            f"{m.reference_rows:,}",
            f"{m.new:.3g}" if m.rows else "–",
            f"{m.rows:,}",
            from_log10(m.log10_e),
            from_log10(m.highest_log10_e),
        )
        for m in state.measures
    ]
    print_table("", ("measure", "before", "of", "since", "of", "e-value", "highest"), rows)


def _end(state: DriftState, asked: Sequence[str]) -> None:
    print(_sentence(state))
    if asked:
        print(f"asked for a run: {', '.join(asked)}; `tuneline schedule run` or a worker does it")


def _word(state: DriftState) -> str:
    return state.verdict if state.first_row is None else f"drift since row {state.first_row:,}"


def _sentence(state: DriftState) -> str:
    risk = f"the risk of ever saying drift while there is none is {state.alpha:.0%}, however often one looks"
    if state.first_row is None:
        return f"no drift shown after {state.rows:,} rows; {risk}"
    return f"drift, first shown at row {state.first_row:,}, strongest in: {state.strongest.measure}; {risk}"
