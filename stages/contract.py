"""The contract of a stage: a plain function `(parents, config, out) -> Facts`.

It writes only under `out`, which exists and is empty (or holds its own checkpoints after a crash),
and knows no registry, no Prefect and no global.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from registry.artifacts import BaseReference, Kind, QuantSpec

log = logging.getLogger("tuneline.stage")


class StageConfig(BaseModel):
    """Every stage's configuration: typed, frozen, no unknown keys, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tools: ClassVar[tuple[str, ...]] = ()
    """Packages beside the verb's `TOOLS` whose version may change the result of this variant."""


class Parent(BaseModel):
    """An input artifact as a stage sees it: a read-only directory and what is known of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind
    path: Path
    base: BaseReference | None = None
    quant: QuantSpec | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)


Parents = Mapping[str, Parent]
"""role → artifact: `base`, `dataset`, `adapter`, `model`."""


class Facts(BaseModel):
    """What a stage found out about its result. Nothing here may differ between two runs of the same work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    base: BaseReference | None = None
    quant: QuantSpec | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)


class ProgressEvent(TypedDict):
    """How far a stage is, as it reaches those who watch; it may hold more keys, each a named figure."""

    done: int
    total: int | None
    unit: str


StageFunction = Callable[[Parents, Any, Path], Facts]


def progress(done: int, total: int | None, unit: str, **figures: float | str) -> None:
    """Tell whoever watches how far a stage is: `done` of `total` (None: unknown) `unit`s, with named figures.

    A log record with the attribute `progress`; the child process forwards it, a test can capture it.
    """
    shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
    of = f"{done}/{total}" if total else f"{done}"
    event = {"done": done, "total": total, "unit": unit, **figures}
    log.info("%s %s %s", of, unit, shown, extra={"progress": event})


def toolchain(packages: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution; "absent" where it is not installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions
