"""What was found in untrusted files, as the sandbox hands it over: plain JSON."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from stages.formats.gguf_types import EffectiveGguf
from stages.untrusted.json import JsonObject

Form = Literal["adapter", "model", "gptq", "gguf", "gguf-adapter"]


class TemplateDescription(TypedDict):
    """Whether there is a chat template, and which."""

    present: bool
    sha256: str | None


class TokenizerDescription(TypedDict):
    """The tokenizer beside the weights; `length`: None where its vocabulary has no known form."""

    digest: str
    length: int | None
    chat_template: TemplateDescription


class GptqSettings(TypedDict):
    """How a GPTQ checkpoint is packed; `stands_in`: the file that says so."""

    bits: int
    group_size: int
    desc_act: bool
    sym: bool
    checkpoint_format: str
    producer: str | None
    stands_in: str


class OwnRecord(TypedDict):
    """What Tuneline wrote beside the files when it made them."""

    file: str
    base: JsonObject | None
    quant: JsonObject | None


class WeightFigures(TypedDict):
    """Of all weights; packed ones count as `parameters` that they stand for."""

    dtypes: dict[str, int]
    bytes: int
    parameters: int


class Description(TypedDict):
    """A directory or a GGUF file: `files` belong to it, `left_out` do not."""

    form: Form
    files: list[str]
    left_out: list[str]
    outline: NotRequired[JsonObject]
    record: NotRequired[OwnRecord | None]
    # of a directory
    tokenizer: NotRequired[TokenizerDescription | None]
    config: NotRequired[JsonObject]
    quantization: NotRequired[GptqSettings | None]
    dtypes: NotRequired[dict[str, int]]
    bytes: NotRequired[int]
    parameters: NotRequired[int]
    weights: NotRequired[list[str]]
    # of a GGUF file
    effective: NotRequired[EffectiveGguf]
    names_its_type: NotRequired[bool]
    not_scanned: NotRequired[list[str]]
    tokens: NotRequired[int]
    embedding: NotRequired[list[int] | None]
    blocks: NotRequired[object]
    metadata: NotRequired[JsonObject]
