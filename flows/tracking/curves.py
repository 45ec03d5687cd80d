"""The curves of a training as an event file: live from its progress, at its end whole from its history."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.tracking.event_file import EventFile
from stages.config.train import TrainConfig
from stages.contract import ProgressEvent

FOLDER = "tensorboard"
"""In a run's folder, with a folder for each training."""
_NOT_DRAWN = {"done", "total", "unit", "step", "tokens"}
_VALIDATION = "validation_"


class Curves:
    """Writes one training's curves into `folder`. A disk that is full ends the curves, not the run."""

    def __init__(self, folder: Path, config: TrainConfig, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._config, self._clock = folder, config, clock
        self._live: EventFile | None = None
        self._heard: dict[int, tuple[float, dict[str, float]]] = {}
        self._validated = 0

    def heard(self, event: ProgressEvent) -> None:
        """The training has come so far."""
        told: Mapping[str, Any] = event
        if told.get("unit") != "steps" or "loss" not in told:
            return
        at, step = self._clock(), int(told["done"])
        named = tags(told)
        steps = {tag: value for tag, value in named.items() if not tag.startswith("validation/")}
        self._heard[step] = at, steps
        with contextlib.suppress(OSError):
            if self._live is None:
                self._live = EventFile(self._folder, at)
            before = [s for s in self._config.validated_at(int(told["total"] or step)) if s < step]
            validation = {tag: value for tag, value in named.items() if tag.startswith("validation/")}
            if validation and before and before[-1] > self._validated:
                self._validated = before[-1]
                self._live.scalars(self._validated, validation, at)
            self._live.scalars(step, steps, at)

    def whole(self, history: Sequence[Mapping[str, float]]) -> None:
        """The training is over, or was made before: all of its curves, in place of what was heard."""
        with contextlib.suppress(OSError):
            self.close()
            now = self._clock()
            file = EventFile(self._folder, now)
            for row in history:
                step = int(row["step"])
                at, heard = self._heard.get(step, (now, {}))
                own = tags(row)
                more = {} if any(tag.startswith("validation/") for tag in own) else heard
                file.scalars(step, {**more, **own}, at)
            file.close()
            if self._live is not None and self._live.path != file.path:
                self._live.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; the training may have been ended."""
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.close()


def tags(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an event, or of a row of a history, under the tags that they are drawn by."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if name in _NOT_DRAWN or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        of_validation = name.startswith(_VALIDATION)
        tag = f"validation/{name.removeprefix(_VALIDATION)}" if of_validation else f"train/{name}"
        found[tag] = float(value)
    return found
