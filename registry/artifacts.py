"""What an artifact is: typed manifests whose digest is the artifact's id.

A manifest holds nothing that differs between two runs of the same work: no time, no host, no path.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from registry.names import check_file_names
from registry.quantization import STORED, QuantMethod

Kind = Literal["base", "dataset", "adapter", "merged", "quantized", "evaluation"]
Relation = Literal[
    "adapter", "merge", "quantized", "finetune",
    "trained_on", "calibrated_on", "evaluated_on", "evaluation_of", "compared_with", "tokenized_for",
    "grown_from",
]  # fmt: skip
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in lower-case hexadecimal."""

JsonObject = dict[str, Any]
"""A JSON object whose keys are somebody else's to choose; where they are known there is a type for them."""
MODEL_KINDS: frozenset[Kind] = frozenset({"base", "adapter", "merged", "quantized"})


class Record(BaseModel):
    # Built when first used: a command needs few of its records, and building all takes a tenth of its start.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def of_row(cls, row: object, **parsed: object) -> Self:
        """The record that a row of the database holds; `parsed`: the fields that it has in another form."""
        fields = {name: getattr(row, name) for name in cls.model_fields if name not in parsed}
        return cls.model_validate({**fields, **parsed})


class BaseReference(Record):
    """Exactly which base model, down to its bytes."""

    source: str = Field(description="hub:ORG/NAME, path:NAME or package:DISTRIBUTION/FILE")
    revision: str = Field(
        min_length=7, description="commit hash for hub:, version+sha256 for package:, sha256 for path:"
    )
    weights_digest: Digest = Field(description="sha256 over the sorted (file, sha256) of the weights")
    tokenizer_digest: Digest
    tokenizer_length: int = Field(gt=0, description="number of token ids the tokenizer can produce")
    embedding_rows: int = Field(gt=0, description="rows of the input embedding")
    chat_template_digest: Digest
    architecture: str = Field(description="e.g. LlamaForCausalLM")


class QuantSpec(Record):
    """How the weights are quantized: as asked for, and as it came out."""

    method: QuantMethod
    requested: dict[str, Any] = Field(default_factory=dict)
    effective: dict[str, Any] = Field(
        default_factory=dict,
        description="what the file really holds: bits_per_weight, types per tensor count, dtype, fallbacks",
    )
    calibration_dataset: Digest | None = Field(default=None, description="id of the dataset artifact")
    merge_base: Literal["16bit", "nf4"] | None = Field(
        default=None, description="the weights that the adapter was folded into"
    )
    toolchain: dict[str, str] = Field(default_factory=dict, description="package → version")

    @property
    def quantized(self) -> bool:
        """Whether the weights have fewer bits than 16, or had in training."""
        return self.method != "none"

    @property
    def is_nf4(self) -> bool:
        """Of an adapter: whether its base was quantized to NF4 in training."""
        return self.method == "bnb"

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file, which llama.cpp reads."""
        return STORED[self.method].is_gguf

    @property
    def is_packed(self) -> bool:
        """Whether its modules hold several weights in each value, as GPTQ stores them."""
        return STORED[self.method].is_packed


class FileEntry(Record):
    sha256: Digest
    size: int = Field(ge=0, description="bytes")


class Parentage(Record):
    relation: Relation
    id: Digest


@dataclass(frozen=True)
class StageResult:
    """What a stage made of what, as its manifest will say it; the files are counted in at the commit."""

    kind: Kind
    stage: str
    stage_version: int
    config: Mapping[str, Any] = field(default_factory=dict)
    toolchain: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[Parentage, ...] = ()
    base: BaseReference | None = None
    quant: QuantSpec | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


class Manifest(Record):
    """The canonical description of an artifact. Its digest is the artifact's id."""

    schema_version: Literal[1] = 1
    kind: Kind
    stage: str
    stage_version: int = Field(ge=1)
    config: dict[str, Any]
    toolchain: dict[str, str]
    parents: tuple[Parentage, ...] = ()
    base: BaseReference | None = None
    quant: QuantSpec | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _model_kinds_name_their_base(self) -> Manifest:
        if self.kind in MODEL_KINDS and (self.base is None or self.quant is None):
            raise ValueError(
                f"a {self.kind} artifact must carry a base reference and a quant spec "
                '(method "none" where the weights are not quantized)'
            )
        return self

    @model_validator(mode="after")
    def _safe_file_names(self) -> Manifest:
        check_file_names(self.files)
        return self

    @model_validator(mode="after")
    def _only_finite_numbers(self) -> Manifest:
        for name in ("config", "metrics"):
            _refuse_nonfinite(getattr(self, name), name)
        if self.quant is not None:
            _refuse_nonfinite(self.quant.requested, "quant.requested")
            _refuse_nonfinite(self.quant.effective, "quant.effective")
        return self

    @property
    def id(self) -> str:
        return digest(self.model_dump(mode="json"))


def _refuse_nonfinite(value: Any, where: str) -> None:
    # pydantic writes NaN as null, which would hide it from whoever reads the number later
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; a manifest holds finite numbers only")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_nonfinite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_nonfinite(item, f"{where}[{index}]")


def canonical(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; NaN and infinity are refused with ValueError."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def memo_key(
    stage: str,
    stage_version: int,
    config: Mapping[str, Any],
    parents: Mapping[str, str],
    toolchain: Mapping[str, str],
) -> str:
    """The key under which a stage's result is found again; `parents` maps role → artifact id."""
    return digest([stage, stage_version, dict(config), dict(parents), dict(toolchain)])
