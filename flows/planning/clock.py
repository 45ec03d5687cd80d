"""Turn work into seconds: by comparable runs on this machine where there are any, else by its rates.

And how much memory runs took that were alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flows.formatting import short, size
from flows.planning.earlier import KEPT, EarlierRun, correction, earlier_runs
from flows.planning.rates import MEASURED, ComputeRates, rates_here
from flows.settings import Settings
from registry import Registry
from registry.artifacts import Manifest
from registry.errors import RegistryError
from stages.model_shape import ModelShape
from stages.work import Work

STAGES = ("resolve", "prepare", "train", "evaluate", "merge", "quantize")
Describe = Callable[[EarlierRun], Work | None]


DISTURBED = (
    "Other work had the cores while this machine was timed: times may be wrong, and are longer beside such "
    "work. It is timed again in an hour."
)
OTHERWISE = (AttributeError, KeyError, TypeError, ValueError)
"""Of a run of another version, which recorded something else."""


@dataclass(frozen=True)
class Clock:
    """This machine's rates, and what ran on it before, by stage."""

    rates: ComputeRates = field(default_factory=ComputeRates)
    earlier: Mapping[str, Sequence[EarlierRun]] = field(default_factory=dict)

    def on_cpu(
        self, stage: str, work: Work, dtype: str, describe: Describe, count: int = 1
    ) -> tuple[float, str]:
        """Seconds of `count` runs of a stage with products in `dtype`, and what that rests on.

        `describe`: the work of an earlier run of the stage, None for one that is not comparable.
        """
        dtype = self.rates.auto if dtype == "auto" else dtype
        expected = self.rates.seconds(work, dtype)

        def comparable(run: EarlierRun) -> Work | None:
            try:
                return describe(run) if _dtype(run.manifest) in (dtype, None) else None
            except OTHERWISE:
                return None

        corrected = correction(self.earlier.get(stage, ()), expected, self.rates, dtype, comparable)
        if corrected is None:
            return count * expected, self.rates.basis
        ratio, runs = corrected
        return count * expected * ratio, f"from {runs} earlier run{'s' if runs > 1 else ''} here"

    def alike(self, stage: str, alike: Callable[[EarlierRun], bool]) -> list[EarlierRun]:
        """The latest runs of the stage that were alike, newest first."""

        def is_alike(run: EarlierRun) -> bool:
            try:
                return alike(run)
            except OTHERWISE:
                return False

        return [run for run in self.earlier.get(stage, ()) if is_alike(run)][:KEPT]

    def peak(self, stage: str, alike: Callable[[EarlierRun], bool]) -> tuple[int, str] | None:
        """Bytes of the largest peak among those, and what that run made; None where none was recorded."""
        runs = [run for run in self.alike(stage, alike) if run.peak_bytes is not None]
        if not runs:
            return None
        largest = max(runs, key=lambda run: run.peak_bytes or 0)
        made = f"{largest.manifest.kind} {short(largest.made.id)}"
        return largest.peak_bytes or 0, f"{made}, made here on {largest.started:%Y-%m-%d}"

    def on_gpu(self, work: Work, count: int = 1) -> tuple[float, str]:
        """The same on a GPU."""
        return count * self.rates.gpu_seconds(work), self.rates.gpu_basis


def clock_here(shape: ModelShape, settings: Settings) -> Clock:
    """This machine's clock for models of `shape`; measures it, unless that was done before."""
    return Clock(rates_here(shape, settings), earlier_here(settings))


def earlier_here(settings: Settings) -> Mapping[str, Sequence[EarlierRun]]:
    """The latest runs of each stage, from the registry where there is one; planning makes none, and does
    without one that is away."""
    if settings.database_url is None and not (settings.root / "registry.db").exists():
        return {}
    try:
        with Registry.open(settings.root, settings.database_url, settings.store_url) as registry:
            return earlier_runs(registry, STAGES)
    except RegistryError:
        return {}


def said_of_times(bases: Iterable[tuple[str, str]], rates: ComputeRates) -> list[str]:
    """One sentence for each thing that times rest on; `bases`: stage and basis of each estimate."""
    stages: dict[str, list[str]] = {}
    for stage, basis in bases:
        if basis:
            stages.setdefault(basis, []).append(stage)
    here = (
        f" ({rates.cores} cores, each {rates.float32.forward / 1e9:.0f} GFLOP/s in float32 and "
        f"{rates.bfloat16.forward / 1e9:.0f} in bfloat16; disk {size(round(rates.disk))}/s)"
    )
    whose = {
        basis: "All times" if len(stages) == 1 else f"Times of {', '.join(names)}"
        for basis, names in stages.items()
    }
    said = [f"{whose[basis]}: {basis}{here if basis == MEASURED else ''}." for basis in stages]
    if MEASURED in stages and any(times.disturbed for times in rates.timed.values()):
        said.append(DISTURBED)
    return said


def said_of_memory(bases: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence on what memory was measured, if any; `bases`: stage and what the run made that took it."""
    measured = [f"{stage} ({basis})" for stage, basis in bases if basis]
    return [f"Memory as measured with the same inputs: {'; '.join(measured)}."] if measured else []


def _dtype(manifest: Manifest) -> str | None:
    """The type that a stage was told to compute in; None for one that has no such key."""
    nf4 = manifest.config.get("nf4") or {}
    dtype = nf4.get("compute_dtype") or manifest.config.get("compute_dtype")
    return None if dtype is None else str(dtype)
