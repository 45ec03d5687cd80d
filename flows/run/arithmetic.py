"""Decide once for a run what `compute_dtype: auto` means, and put the answer in its place everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from flows.run.child import child_environment
from flows.settings import Settings
from registry.artifacts import QuantSpec
from stages.arithmetic import ComputeDtype, MachineSpeed, identity, machine_speed
from stages.model_shape import ModelShape

M = TypeVar("M", bound=BaseModel)
AUTO, KEY = "auto", "compute_dtype"


@dataclass(frozen=True)
class Arithmetic:
    """The run's answer, what asked for it (dotted keys of the recipe), and the measurement behind it."""

    compute_dtype: ComputeDtype
    asked: tuple[str, ...]
    speed: MachineSpeed

    @property
    def sentence(self) -> str:
        """For people: the answer and its reason."""
        slower, faster = sorted((self.speed.float32.overall, self.speed.bfloat16.overall))
        other = "float32" if self.compute_dtype == "bfloat16" else "bfloat16"
        where = "GPU" if self.speed.device == "cuda" else "processor"
        times = f"{faster / slower:.1f}" if faster < 10 * slower else f"{faster / slower:.0f}"
        if (self.speed.ratio > 1) == (self.compute_dtype == "bfloat16"):
            return f"computed in {self.compute_dtype}: {other} is {times} times slower on this {where}"
        return f"computed in {self.compute_dtype}: {other} is only {times} times faster on this {where}"

    def record(self) -> dict[str, str | dict[str, str] | dict[str, float]]:
        """For an execution's record: beside what was asked for, what it was decided on."""
        rates = {"float32": self.speed.float32.overall, "bfloat16": self.speed.bfloat16.overall}
        return {
            "asked": dict.fromkeys(self.asked, AUTO),
            "effective": self.compute_dtype,
            "machine": self.speed.identity,
            "operations_per_second": rates,
        }


def as_asked(quant: QuantSpec | None, stage: str, arithmetic: Arithmetic | None) -> QuantSpec | None:
    """`quant` with `auto` as what was requested, where the recipe asked so; `effective` has the answer."""
    if quant is None or arithmetic is None or KEY not in quant.requested:
        return quant
    if not any(key.startswith(f"{stage}.") for key in arithmetic.asked):
        return quant
    return quant.model_copy(update={"requested": {**quant.requested, KEY: AUTO}})


def measured_speed(shape: ModelShape, settings: Settings) -> MachineSpeed:
    """The speed of this machine in a matrix product of the model's own width; kept in the cache."""
    return machine_speed(shape.hidden, shape.intermediate, settings.cache_folder, child_environment())


def settle(config: M, shape: ModelShape, settings: Settings) -> tuple[M, Arithmetic | None]:
    """`config` with the machine's answer for every `compute_dtype: auto` in it; None if there was none."""
    asked = tuple(_asking(config))
    if not asked:
        return config, None
    speed = measured_speed(shape, settings)
    return with_compute_dtype(config, speed.compute_dtype), Arithmetic(speed.compute_dtype, asked, speed)


def with_compute_dtype(config: M, answer: ComputeDtype) -> M:
    """A copy of `config` in which no `compute_dtype`, at any depth, is `auto`."""
    changed = {name: _answered(value, answer) for name, value in config}
    if changed.get(KEY) == AUTO:
        changed[KEY] = answer
    return config.model_copy(update=changed)


def _answered(value: Any, answer: ComputeDtype) -> Any:
    if isinstance(value, BaseModel):
        return with_compute_dtype(value, answer)
    if isinstance(value, tuple):
        return tuple(_answered(item, answer) for item in value)
    return value


def _asking(value: Any, path: str = "") -> list[str]:
    if isinstance(value, tuple):
        return [key for k, item in enumerate(value) for key in _asking(item, f"{path}.{k}")]
    if not isinstance(value, BaseModel):
        return []
    keys = []
    for name, item in value:
        where = f"{path}.{name}".lstrip(".")
        keys += [where] if (name, item) == (KEY, AUTO) else _asking(item, where)
    return keys


def this_machine() -> str:
    """What an execution is recorded under, beside its host: a digest of processor, cores and libraries."""
    return identity()[0][:16]
