"""The adapter of a run: trained on answers, and if the recipe says so then on which of two is preferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.errors import Usage
from registry import Artifact, Registry
from stages.config.train import TrainConfig

if TYPE_CHECKING:
    from flows.run.step import Run


def train_before(
    run: Run, config: TrainConfig, prefix: str = "", /, *, base: Artifact, dataset: Artifact
) -> Artifact | None:
    """The adapter that training on preferences goes on from; None where it begins with a fresh one, or where
    nothing is trained on preferences. `prefix`: what the names of its steps begin with.

    Raises `Usage` where a `start` names what is not an adapter, and NotFound where it names nothing.
    """
    start = named_start(run.registry, config)
    for training in config.trainings[:-1]:
        start = run.step("train", training, f"{prefix}{training.label}", base=base, dataset=dataset)
    return start


def train(
    run: Run,
    config: TrainConfig,
    start: Artifact | None,
    prefix: str = "",
    /,
    *,
    base: Artifact,
    dataset: Artifact,
) -> Artifact:
    """The adapter; trained further from `start`, if there is one. `prefix`: as of `train_before`."""
    further = {"adapter": start} if start is not None else {}
    return run.step("train", config, f"{prefix}{config.label}", base=base, dataset=dataset, **further)


def named_start(registry: Registry, config: TrainConfig) -> Artifact | None:
    """The adapter that `train.dpo.start` or `train.kto.start` names by its id or name; None where none does.

    Raises as `train_before` does.
    """
    if (name := config.named_start) is None:
        return None
    start = registry.get(name)
    if start.manifest.kind != "adapter":
        raise Usage(
            f"{config.section}.start: {name} is a {start.manifest.kind}; expected an adapter, `sft` or `base`"
        )
    return start
