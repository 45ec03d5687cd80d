"""How fast this machine is: matrix products and disk, measured once and kept; else the usual figures."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.planning.timed import PassTimes, pass_times, time_first
from flows.run.arithmetic import measured_speed
from flows.settings import Settings
from registry.artifacts import digest
from serving.cores import usable_cores
from stages.arithmetic import ComputeDtype, MachineSpeed, ProductRates, identity
from stages.errors import StageError
from stages.model_shape import ModelShape
from stages.work import Through, Work

MEASURED = "measured on this machine"
PUBLISHED = "published figures of other machines"
USUAL_GPU = 50e12
"""Sustained in QLoRA: 65B parameters for 24 hours on one GPU (arXiv:2305.14314, section 1), rounded down."""
GPU_SHARE = 0.2
"""Of a GPU's measured products, what training and evaluation sustain: as much of an A100's 250 TFLOP/s."""
DISK_SAMPLE = 32 << 20
_USUAL_FLOAT32 = ProductRates(forward=100e9, grad_input=100e9, grad_weight=100e9)
_USUAL_BFLOAT16 = ProductRates(forward=300e9, grad_input=300e9, grad_weight=150e9)


@dataclass(frozen=True)
class ComputeRates:
    """Operations per second of one core, and bytes per second of the disk below the home."""

    float32: ProductRates = _USUAL_FLOAT32
    bfloat16: ProductRates = _USUAL_BFLOAT16
    auto: ComputeDtype = "bfloat16"
    """What `compute_dtype: auto` means here."""
    cores: int = 2
    disk: float = 300e6
    gpu: float = USUAL_GPU
    basis: str = PUBLISHED
    gpu_basis: str = PUBLISHED
    timed: Mapping[str, PassTimes] = field(default_factory=dict)
    """How long a pass through the model takes here with all cores, by the type that was timed: `auto`'s."""

    def seconds(self, work: Work, dtype: str) -> float:
        """On the CPU, products in `dtype`."""
        dtype = self.auto if dtype == "auto" else dtype
        alone = work.serial / self.float32.forward + work.disk / self.disk
        if work.through is not None and self.timed:
            return self._through(work, work.through, dtype) + alone
        products = self._products(work, dtype) + work.beside / self.float32.forward
        return products / self.cores + alone

    def _products(self, work: Work, dtype: str) -> float:
        """Seconds of one core."""
        rates = getattr(self, dtype)
        return float(work.forward / rates.forward + work.backward / rates.grad_input)

    def _through(self, work: Work, through: Through, dtype: str) -> float:
        """As timed; in the other type with products as fast as those."""
        if dtype in self.timed:
            return self.timed[dtype].seconds(through)
        ((other, times),) = self.timed.items()
        slower = self._products(work, dtype) - self._products(work, other)
        return max(times.seconds(through) + slower / self.cores, self._products(work, dtype) / self.cores)

    def gpu_seconds(self, work: Work) -> float:
        """Products on the GPU, the rest on one core."""
        products = (work.forward + work.backward) / self.gpu
        return products + work.serial / self.float32.forward + work.disk / self.disk


def rates_here(shape: ModelShape, settings: Settings) -> ComputeRates:
    """This machine's rates for products of the model's own width, from the cache or measured now.

    Where torch is not installed the usual figures, which say so.
    """
    disk = _disk(settings)
    usual = replace(ComputeRates(cores=usable_cores()), disk=disk or ComputeRates.disk)
    time_first(shape, settings.cache_folder)
    try:
        speed = measured_speed(shape, settings)
    except StageError:
        return usual
    rates = of_speed(speed, usual)
    if speed.device == "cuda":
        return rates
    return replace(rates, timed=pass_times(shape, speed.compute_dtype, settings.cache_folder))


def of_speed(speed: MachineSpeed, usual: ComputeRates) -> ComputeRates:
    """`usual` with what was measured in the place of what is usual."""
    if speed.device == "cuda":
        return replace(
            usual, auto=speed.compute_dtype, gpu=GPU_SHARE * speed.bfloat16.overall, gpu_basis=MEASURED
        )
    return replace(
        usual, float32=speed.float32, bfloat16=speed.bfloat16, auto=speed.compute_dtype, basis=MEASURED
    )


def _disk(settings: Settings) -> float | None:
    """Bytes per second through the disk below the home, written to it and read back; None if it cannot be."""
    home = settings.root
    folder = next(path for path in (home, *home.parents) if path.is_dir())
    with contextlib.suppress(OSError):
        file = (
            settings.cache_folder
            / f"disk-{digest([identity()[0], str(folder), folder.stat().st_dev])[:20]}.json"
        )
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return float(json.loads(file.read_text())["bytes_per_second"])
        measured = _through(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(json.dumps({"bytes_per_second": measured, "folder": str(folder)}))
        draft.replace(file)
        return measured
    return None


def _through(folder: Path) -> float:
    """Write, sync and read a file, not from the memory where the system can be asked to forget it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        block = os.urandom(1 << 20)
        began = time.perf_counter()
        for _ in range(DISK_SAMPLE >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        while file.read(1 << 20):
            pass
        return 2 * DISK_SAMPLE / (time.perf_counter() - began)
