"""GPTQ: packed weights in a Hugging Face directory, calibrated on the training data, served by vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from registry.artifacts import QuantSpec
from registry.compat.model import EngineLimits
from stages import work
from stages.families.support import gptq_refusal
from stages.model_shape import ModelShape
from stages.outline import outline_of_model
from stages.quantization.method import Cost, Grid, Made, QuantizationConfig, QuantizationMethod, backend
from stages.quantization.snippets import Exported, Snippet

USUAL_KL = {"gptq-8": 0.05, "gptq-4": 0.3, "gptq-3": 0.8, "gptq-2": 2.5}
GPTQMODEL = 15_000_000
"""The library itself, beside what most stages import."""
KEPT_OF_LAYERS = 3.5
"""Bytes per parameter that it keeps of a layer that is done, measured."""
GPU_SECONDS = 4.2 * 3600 / 175e9
"""Per parameter on one A100 (Frantar et al. 2022, arXiv:2210.17323, section 4)."""


class GptqConfig(QuantizationConfig):
    """GPTQ through GPTQModel (checkpoint format `gptq`)."""

    method: Literal["gptq"] = "gptq"
    bits: Literal[2, 3, 4, 8] = Field(default=4, description="per weight, without scales")
    group_size: Literal[32, 64, 128, -1] = Field(default=128, description="weights per scale; -1: per column")
    desc_act: bool = Field(default=False, description="quantize columns by decreasing activation")
    damp_percent: float = Field(default=0.05, gt=0, lt=1, description="first rung of the damping ladder")
    calibration_rows: int = Field(default=128, ge=1, description="chat-templated rows of the training split")
    dtype: Literal["float16", "bfloat16"] = Field(
        default="float16", description="dtype of scales and of the tensors that stay unquantized"
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="type in which the calibration rows pass through the layers on a CPU: float32, or with "
        "bfloat16 the type of `dtype`; `auto`: the run's answer, as for `train.nf4.compute_dtype`",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the choice of calibration rows")

    @property
    def label(self) -> str:
        return f"gptq-{self.bits}bit"

    @property
    def form(self) -> str:
        return self.method


class Gptq(QuantizationMethod[GptqConfig]):
    """Its types are `gptq-4` and so on; a gate's limits know it as `gptq`, whatever the bits."""

    config = GptqConfig
    name = "GPTQ"
    packages = ("gptqmodel",)
    hub_library = "transformers"
    limits = USUAL_KL
    calibrates = True

    def quantize(self, config: GptqConfig, model: Path, dataset: Path | None, name: str, out: Path) -> Made:
        effective = backend("gptq.quantize", "quantize_gptq")(model, dataset, config, out)
        return Made(effective, outline_of_model(out))

    def refusal(self, family: str, architecture: str) -> str | None:
        return gptq_refusal(family)

    def problems(self, config: GptqConfig, shape: ModelShape) -> Iterator[tuple[str, str]]:
        rows = {name: inputs for name, (inputs, _, _) in shape.packed_shapes().items()}
        size = config.group_size
        if wrong := {name: length for name, length in rows.items() if size > 0 and length % size}:
            name, length = next(iter(wrong.items()))
            fitting = [str(group) for group in (128, 64, 32) if not any(row % group for row in rows.values())]
            yield (
                "group_size",
                f"{size} does not divide the rows of {name} ({length} weights); set it to "
                f"{' or '.join([*fitting, '-1'])}",
            )

    def no_kernel(self, config: GptqConfig, engine: EngineLimits) -> str | None:
        if config.bits in engine.gptq_bits:
            return None
        bits = ", ".join(map(str, sorted(engine.gptq_bits)))
        return f"{engine.name} has no kernel for GPTQ with {config.bits} bits, but for {bits}"

    def cost(self, config: GptqConfig, shape: ModelShape, row_length: int) -> Cost:
        group = shape.hidden if config.group_size == -1 else config.group_size
        packed = shape.packed_parameters
        disk = (shape.parameters - packed) * 2 + packed * (config.bits + 24 / group) / 8
        tokens = config.calibration_rows * row_length
        # input and output of a layer for every calibration token; the widest Hessian, its factor and its
        # inverse
        wide = 4 if config.compute_dtype == "float32" else 2
        activations = tokens * shape.hidden * wide * 4
        hessian = 3 * 4 * max(inputs for inputs, _, _ in shape.packed_shapes().values()) ** 2
        layer = 12 * packed // shape.layers
        done = KEPT_OF_LAYERS * packed
        ends = (shape.parameters - packed) * wide
        # the export reads the embedding, narrows it and looks for infinities
        written = shape.vocabulary * shape.hidden * (wide + 2 + 4)
        return Cost(
            memory_bytes=int(GPTQMODEL + ends + done + activations + hessian + layer + written),
            disk_bytes=int(disk),
            work=work.gptq(shape, tokens),
            note="on the CPU",
            dtype=config.compute_dtype,
            gpu_seconds=60 + GPU_SECONDS * shape.parameters,
            gpu_note="the model in main memory, layer by layer on the GPU",
        )

    def type_of(self, quant: QuantSpec) -> str:
        return f"gptq-{quant.requested.get('bits')}"

    def form_of(self, quant: QuantSpec) -> str:
        return self.tag

    def grid(self, quant: QuantSpec) -> Grid | None:
        return Grid(int(quant.requested["bits"]), int(quant.requested["group_size"]), ends=False)

    def lose_less(self, quant: QuantSpec) -> str:
        fallbacks = len(quant.effective.get("fallbacks", ()))
        rounded = f"; {fallbacks} of its modules could only be rounded" if fallbacks else ""
        return f"calibrate on more rows, take smaller groups or more bits{rounded}"

    def describe(self, quant: QuantSpec) -> str:
        return f"GPTQ {quant.requested['bits']} bit" if "bits" in quant.requested else "GPTQ"

    def snippets(self, exported: Exported) -> list[Snippet]:
        imports = "from gptqmodel import GPTQModel\nfrom transformers import AutoTokenizer\n"
        return [
            Snippet("GPTQModel", "python", exported.program(imports, "GPTQModel.load(directory)")),
            Snippet("vLLM", "console", "$ vllm serve path/to/this/directory"),
        ]
