"""In which type a machine multiplies matrices fastest: measured once, kept for it, asked by each run.

A processor without bfloat16 instructions computes it 10 to 40 times slower than float32, and its name does
not say so: a container, a virtual machine or an environment variable may hide instructions. So it is timed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.artifacts import digest
from stages.errors import StageError

ComputeDtype = Literal["bfloat16", "float32"]

CLEARLY_FASTER = 1.2
"""How many times faster bfloat16 has to be: below this, float32 loses nothing and rounds less."""

_TREE = str(Path(__file__).resolve().parent.parent)
_HIDE_ABILITIES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "CUDA_VISIBLE_DEVICES",
)


class ProductRates(BaseModel):
    """Floating-point operations per second of one matrix product and of the two products of its gradients."""

    model_config = ConfigDict(frozen=True)

    forward: float = Field(gt=0, description="x · Wᵀ")
    grad_input: float = Field(gt=0, description="g · W")
    grad_weight: float = Field(gt=0, description="gᵀ · x")

    @property
    def overall(self) -> float:
        """The rate over one of each."""
        return 3 / (1 / self.forward + 1 / self.grad_input + 1 / self.grad_weight)


class MachineSpeed(BaseModel):
    """What a quick measurement found. Rates are of one core, or of the GPU, in operations per second."""

    model_config = ConfigDict(frozen=True)

    identity: str = Field(description="digest of processor, instructions, cores, GPUs and torch's version")
    processor: str
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1, description="that torch uses here by default")
    product: tuple[int, int, int] = Field(description="tokens, inputs and outputs of the product timed")
    float32: ProductRates
    bfloat16: ProductRates
    native_bfloat16: bool = Field(description="on a GPU, whether it has bfloat16; on a CPU, whether it pays")

    @property
    def compute_dtype(self) -> ComputeDtype:
        """What `auto` means here."""
        return "bfloat16" if self.native_bfloat16 else "float32"

    @property
    def ratio(self) -> float:
        """How many times faster bfloat16 is than float32."""
        return self.bfloat16.overall / self.float32.overall


def identity() -> tuple[str, str]:
    """A digest of whatever decides how fast this machine multiplies, and the processor's name."""
    processor, flags = _processor()
    cores, hidden = len(os.sched_getaffinity(0)), {name: os.environ.get(name) for name in _HIDE_ABILITIES}
    abilities = [processor, flags, platform.machine(), cores, _gpus(), hidden, _torch_version()]
    return digest(abilities), processor


def machine_speed(
    inputs: int, outputs: int, cache: Path | None = None, environment: Mapping[str, str] | None = None
) -> MachineSpeed:
    """The speed of this machine for layers of `inputs` × `outputs` weights, measured unless `cache` has it.

    A measurement takes a second or two in a process of its own (torch's import is most of it), which gets
    `environment`. Raises `StageError` when it fails, for example because torch is not installed.
    """
    if cache is None:
        return _measure(inputs, outputs, environment)
    speed = kept_speed(inputs, outputs, cache)
    if speed is None:
        speed = _measure(inputs, outputs, environment)
        keep_speed(speed, inputs, outputs, cache)
    return speed


def kept_speed(inputs: int, outputs: int, cache: Path) -> MachineSpeed | None:
    """The speed for such layers that `cache` has of this machine."""
    with contextlib.suppress(OSError, ValidationError):
        return MachineSpeed.model_validate_json(_file(inputs, outputs, cache).read_text("utf-8"))
    return None


def keep_speed(speed: MachineSpeed, inputs: int, outputs: int, cache: Path) -> None:
    """Write it to `cache`; where that cannot be written it is measured each time."""
    with contextlib.suppress(OSError):
        _keep(_file(inputs, outputs, cache), speed.model_dump_json(indent=1))


def _file(inputs: int, outputs: int, cache: Path) -> Path:
    return cache / f"speed-{digest([identity()[0], inputs, outputs])[:20]}.json"


def _measure(inputs: int, outputs: int, environment: Mapping[str, str] | None) -> MachineSpeed:
    command = [sys.executable, "-m", "stages.backends.arithmetic", str(inputs), str(outputs)]
    done = subprocess.run(
        command, cwd=_TREE, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    try:
        if done.returncode:
            raise ValueError(f"status {done.returncode}")
        return MachineSpeed.model_validate(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError, ValidationError) as error:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise StageError(
            f"the speed of this machine could not be measured ({error}): {last}. To do without, set "
            "compute_dtype to float32 or bfloat16 in the recipe"
        ) from None


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as draft:
        draft.write(text)
    Path(draft.name).replace(file)


def _processor() -> tuple[str, str]:
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = " ".join(sorted(value.split()))
                break
    return name, flags


def _gpus() -> list[str]:
    return sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*"))


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "absent"
