"""What a quantization method is asked by those who plan, make, measure, judge, describe or serve a model.

A method stands below the backends, so that these can read its config: it names its own and does not import
it. Everything else here loads no library.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from registry.artifacts import QuantSpec
from registry.compat.model import EngineLimits
from registry.quantization import STORED, QuantMethod
from stages.contract import StageConfig
from stages.model_shape import ModelShape
from stages.quantization.snippets import Exported, Snippet
from stages.work import Work


class QuantizationConfig(StageConfig):
    """What a recipe says of one quantized form of its model."""

    method: QuantMethod

    @property
    @abstractmethod
    def label(self) -> str:
        """The name that `promote.candidate` and reports have for it."""

    @property
    @abstractmethod
    def form(self) -> str:
        """As a gate's limits of fidelity name it."""


FIGURES = ("bytes", "bits_per_weight", "parameters")
Config = TypeVar("Config", bound=QuantizationConfig)


@dataclass(frozen=True)
class Grid:
    """Symmetric rounding to nearest: `bits` per weight in groups of `group` inputs (-1: whole rows); `ends`:
    embedding and head too."""

    bits: int
    group: int
    ends: bool


@dataclass(frozen=True)
class Cost:
    """What quantizing takes: bytes of main memory beside what most stages import (negative where it uses less
    of that), bytes of disk for what is kept, and the work on a CPU."""

    memory_bytes: int
    disk_bytes: int
    work: Work
    note: str
    dtype: str = "float32"
    """In which the work's products are computed."""
    gpu_seconds: float | None = None
    """As published for a GPU; None where none is used."""
    gpu_note: str = ""


@dataclass(frozen=True)
class Made:
    """What was written. `effective`: what the files really hold, as the manifest says it, with `FIGURES`;
    `outline`: the shape of a model, for the compatibility contract."""

    effective: dict[str, Any]
    outline: dict[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """The metrics of each quantized artifact."""
        return {name: self.effective[name] for name in FIGURES}


class QuantizationMethod(ABC, Generic[Config]):
    """One way to quantize, and all that depends on which it is."""

    config: type[Config]
    name: ClassVar[str]
    """For people; `computed_with` of an evaluation begins with it."""
    packages: ClassVar[tuple[str, ...]]
    """Modules that have to be installed."""
    hub_library: ClassVar[str]
    """Which one loads the result, as the Hugging Face hub calls it."""
    limits: ClassVar[Mapping[str, float]]
    """Type → mean KL to the parent, nats per token, up to which nothing has to be asked."""
    calibrates: ClassVar[bool] = False
    """Whether it needs a dataset."""
    needs_converter: ClassVar[bool] = False
    """Whether llama.cpp's converter is needed, which is fetched once."""
    takes_adapters: ClassVar[bool] = False
    """Whether `quantize_adapter` is there."""

    @property
    def tag(self) -> QuantMethod:
        """What recipes and manifests call it."""
        tag: QuantMethod = self.config.model_fields["method"].default
        return tag

    @property
    def engine(self) -> str | None:
        """What serves the result."""
        return STORED[self.tag].engine

    @abstractmethod
    def quantize(self, config: Config, model: Path, dataset: Path | None, name: str, out: Path) -> Made:
        """Write the Hugging Face model in `model` to `out`, under `name` where the files hold one.

        Raises `InvalidInput`, `InsufficientResources`, `MissingPackage`.
        """

    def quantize_adapter(self, config: Config, adapter: Path, base: Path, out: Path) -> Made:
        """The same of a PEFT adapter of the model in `base`."""
        raise NotImplementedError

    @abstractmethod
    def refusal(self, family: str, architecture: str) -> str | None:
        """Why models of this family cannot be had in this form, or None."""

    def problems(self, config: Config, shape: ModelShape) -> Iterator[tuple[str, str]]:
        """Keys of `config` that do not fit the model, each with what is wrong."""
        yield from ()

    def no_kernel(self, config: Config, engine: EngineLimits) -> str | None:
        """Why the engine, which serves this method, cannot serve this form, or None."""
        return None

    @abstractmethod
    def cost(self, config: Config, shape: ModelShape, row_length: int) -> Cost:
        """Upper ends of what to expect; `row_length`: tokens of the longest row of the dataset."""

    @abstractmethod
    def type_of(self, quant: QuantSpec) -> str:
        """The type that `limits` has a limit for."""

    @abstractmethod
    def form_of(self, quant: QuantSpec) -> str:
        """As a gate's limits of fidelity name it."""

    @abstractmethod
    def grid(self, quant: QuantSpec) -> Grid | None:
        """What to round the parent to, for a sound file of this type to be no farther; None for 16 bits."""

    @abstractmethod
    def lose_less(self, quant: QuantSpec) -> str:
        """What to do where the file is sound and loses too much."""

    @abstractmethod
    def describe(self, quant: QuantSpec) -> str:
        """The form in a few words, for the title of a model card."""

    @abstractmethod
    def snippets(self, exported: Exported) -> list[Snippet]:
        """Ways to load an exported model. The first is what was tested."""


def backend(module: str, function: str) -> Callable[..., Any]:
    """A function of `stages.backends`, which loads the libraries that it needs."""
    return getattr(importlib.import_module(f"stages.backends.{module}"), function)
