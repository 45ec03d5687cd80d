"""How long a block and the head of a model take on this machine: timed once for its widths, and kept."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.run.child import child_environment
from registry.artifacts import digest
from stages.arithmetic import MachineSpeed, identity, keep_speed, kept_speed
from stages.model_shape import ModelShape
from stages.work import Through

WIDEST, MOST_WORDS = 2048, 65_536
"""Hidden units and vocabulary that are timed; a larger model takes in proportion to its weights."""
DISTURBED_KEPT = 3600.0
"""Seconds for which times are kept that other work disturbed; then they are taken again."""
VERSION = 2
"""Of what is timed."""
_TREE = Path(__file__).resolve().parents[2]


class Fit(BaseModel):
    """Seconds of a pass, whatever it reads, and of each token or position."""

    model_config = ConfigDict(frozen=True)

    once: float = Field(ge=0)
    each: float = Field(ge=0)

    def seconds(self, passes: float, tokens: float) -> float:
        """Of so many passes with so many tokens together."""
        return passes * self.once + tokens * self.each

    def times(self, ratio: float) -> Fit:
        """Of something as many times larger."""
        return Fit(once=self.once * ratio, each=self.each * ratio)


class PassTimes(BaseModel):
    """Of one block: `read`, with an adapter beside it `adapted`; forward, back and optimized `trained`. Of
    the head: `answered`, `compared` and `learned`, for each position. With all cores."""

    model_config = ConfigDict(frozen=True)

    read: Fit
    adapted: Fit
    trained: Fit
    answered: Fit
    compared: Fit
    learned: Fit
    disturbed: bool = False
    """Whether other work had the cores meanwhile."""

    def seconds(self, through: Through) -> float:
        """Of what goes through a model."""
        blocks = (
            self.read.seconds(through.read_passes, through.read_tokens)
            + self.adapted.seconds(through.adapted_passes, through.adapted_tokens)
            + self.trained.seconds(through.trained_passes, through.trained_tokens)
        )
        head = (
            self.answered.seconds(through.answer_passes, through.answered)
            + self.compared.each * through.compared
            + self.learned.seconds(through.trained_passes, through.learned)
        )
        return through.layers * blocks + head


def pass_times(shape: ModelShape, dtype: str, cache: Path) -> dict[str, PassTimes]:
    """Times of a block and the head of `shape` under the type; measured unless `cache` has them: for good,
    or for an hour where other work disturbed that.

    Empty where that cannot be measured, as without torch.
    """
    widths = _widths(shape)
    file = _file(widths, dtype, cache)
    with contextlib.suppress(OSError, ValueError, ValidationError):
        kept, age = _read(file.read_text("utf-8")), time.time() - file.stat().st_mtime
        if age < DISTURBED_KEPT or not any(times.disturbed for times in kept.values()):
            return _scaled(kept, shape, widths)
    found = _measured({"widths": widths, "dtype": dtype})
    try:
        measured = _read(json.dumps(found))
    except ValueError:  # a validation error is one, too
        return {}
    if found:
        _keep(file, found)
    return _scaled(measured, shape, widths)


def time_first(shape: ModelShape, cache: Path) -> None:
    """Time both types and a block in the faster one, in one process, for `cache`; nothing where it has the
    first already, or where that cannot be measured."""
    product, widths = (shape.hidden, shape.intermediate), _widths(shape)
    if kept_speed(*product, cache) is not None:
        return
    found = _measured({"widths": widths, "product": product})
    with contextlib.suppress(KeyError, ValidationError):
        keep_speed(MachineSpeed.model_validate(found.pop("speed")), *product, cache)
        for dtype, parts in found.items():
            _keep(_file(widths, dtype, cache), {dtype: parts})


def _file(widths: Mapping[str, int], dtype: str, cache: Path) -> Path:
    return cache / f"passes-{digest([identity()[0], widths, dtype, VERSION])[:20]}.json"


def _measured(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the process that measures says last; nothing where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.backends.block", json.dumps(asked)],
        cwd=_TREE, env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        return {}


def _keep(file: Path, found: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(json.dumps(found) + "\n", "utf-8")
        draft.replace(file)


def _read(text: str) -> dict[str, PassTimes]:
    return {dtype: PassTimes.model_validate(_named(parts)) for dtype, parts in json.loads(text).items()}


def _named(parts: Mapping[str, Any]) -> dict[str, Any]:
    names = ("once", "each")
    return {
        part: dict(zip(names, value, strict=True)) if isinstance(value, list) else value
        for part, value in parts.items()
    }


def _widths(shape: ModelShape) -> dict[str, int]:
    """Those of the model, narrowed in proportion where it is wider than is timed."""
    narrow = max(1.0, shape.hidden / WIDEST)
    kv_heads = max(1, round(shape.kv_heads / narrow))
    return {
        "hidden": round(shape.hidden / narrow),
        "intermediate": round(shape.intermediate / narrow),
        "heads": kv_heads * max(1, round(shape.heads / shape.kv_heads)),
        "kv_heads": kv_heads,
        "head_size": shape.head_size + shape.head_size % 2,
        "vocabulary": min(shape.vocabulary, MOST_WORDS),
        "layers": shape.layers,
    }


def _scaled(
    times: Mapping[str, PassTimes], shape: ModelShape, widths: Mapping[str, int]
) -> dict[str, PassTimes]:
    """Blocks of another sort than a Llama's, and wider ones, in proportion to their weights."""
    hidden, size = widths["hidden"], widths["head_size"]
    attention = 2 * hidden * size * (widths["heads"] + widths["kv_heads"])
    timed = attention + 3 * hidden * widths["intermediate"]
    block = shape.linear_parameters / shape.layers / timed
    head = shape.vocabulary * shape.hidden / (widths["vocabulary"] * hidden)
    ratios = {
        **dict.fromkeys(("read", "adapted", "trained"), block),
        **dict.fromkeys(("answered", "compared", "learned"), head),
    }
    return {
        dtype: PassTimes(
            **{name: getattr(parts, name).times(ratio) for name, ratio in ratios.items()},
            disturbed=parts.disturbed,
        )
        for dtype, parts in times.items()
    }
