"""Numbers of a text from the base model's own hidden states: its places on their principal axes, and how far
it is from the texts that these were learned from."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.drift.comparison import Learner
from flows.errors import Usage
from flows.installation import is_light, needs_all
from flows.run.arithmetic import measured_speed
from flows.run.child import child_environment
from flows.settings import Settings
from stages.model_shape import describe_base

AXES = 4
"""Places that are measures of their own."""
WHITENED = 32
"""Axes by which the distance is told apart from the rest; of few texts a fifth of their number."""


@dataclass(frozen=True)
class HiddenMeasures:
    """What is known of the texts that a comparison learned from; `vectors` holds every text's, [width].

    `axes` has shape [width, WHITENED]: the principal axes of the learned vectors, divided by their standard
    deviation along each; `rest` is the mean variance along all others.
    """

    vectors: Mapping[str, np.ndarray]
    mean: np.ndarray
    axes: np.ndarray
    deviations: np.ndarray
    rest: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers, in the order of `of`."""
        return (*(f"hidden state {number + 1}" for number in range(AXES)), "hidden distance")

    def of(self, text: str) -> list[float]:
        """Its place on each axis, in standard deviations, and its distance from the mean after whitening.

        The distance is that of probabilistic principal components (Tipping & Bishop 1999, JRSS B 61:611): all
        directions beyond the axes share one variance. It is divided by the root of the width.
        """
        away = self.vectors[text] - self.mean
        along = away @ self.axes
        places = along / self.deviations
        beyond = max(float(away @ away - along @ along), 0.0) / self.rest
        distance = ((float(places @ places) + beyond) / len(away)) ** 0.5
        return [*map(float, places[:AXES]), distance]


def learner(vectors: Mapping[str, np.ndarray]) -> Learner:
    """Learns measures from the vectors of the texts that it gets."""

    def learn(texts: Sequence[str]) -> HiddenMeasures:
        learned = np.array([vectors[text] for text in texts], dtype=np.float64)
        mean = learned.mean(axis=0)
        _, sizes, rows = np.linalg.svd(learned - mean, full_matrices=False)
        variances = sizes**2 / (len(texts) - 1)
        kept = max(AXES, min(WHITENED, len(texts) // 5, learned.shape[1] - 1))
        least = 1e-12 * float(variances[0]) + 1e-300
        rest = float(variances[kept:].sum()) / (learned.shape[1] - kept)
        deviations = np.sqrt(np.maximum(variances[:kept], least))
        return HiddenMeasures(vectors, mean, rows[:kept].T, deviations, max(rest, least))

    return learn


def require_torch() -> None:
    """Raises `Usage` in the light installation."""
    if is_light():
        raise needs_all("--hidden-states needs torch")


def read(model: Path, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The mean last hidden state of each text, float32 [width], by the model in this directory.

    On the CPU, in a process of its own, in the type that is fastest there. Raises `Usage` where the model
    cannot read them.
    """
    speed = measured_speed(describe_base(f"path:{model}"), Settings())
    job = {
        "model": str(model),
        "dtype": speed.compute_dtype if speed.device == "cpu" else "float32",
        "texts": list(texts),
    }
    with tempfile.TemporaryDirectory(prefix="tuneline-") as folder:
        out = Path(folder) / "states.npy"
        done = subprocess.run(
            [sys.executable, "-m", "stages.backends.hidden_states"],
            input=json.dumps({**job, "out": str(out)}),
            capture_output=True,
            text=True,
            env=child_environment(),
        )
        if done.returncode or not out.is_file():
            raise Usage(f"the base cannot read the texts: {_why(done)}; leave out --hidden-states")
        states = np.load(out)
    if not np.isfinite(states).all():
        raise Usage(
            f"the base's hidden states in {job['dtype']} are not all finite; leave out --hidden-states"
        )
    return dict(zip(texts, states, strict=True))


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process was killed by signal {-done.returncode}, most often for lack of memory"
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
