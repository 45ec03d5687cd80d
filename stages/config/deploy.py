"""What can be said about serving the promoted artifact."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from serving.vllm.tool_parsers import NAME, foreign_parser
from stages.contract import StageConfig


class DeployConfig(StageConfig):
    """Which engine serves the promoted artifact, and where."""

    engine: Literal["llama.cpp", "vllm"] = Field(
        default="llama.cpp", description="llama.cpp serves GGUF files, vLLM merged and GPTQ models"
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="what requests call the model; default: the channel that it was promoted to",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="vllm: in which type it computes; auto: the model's own, or float32 where the run found "
        "that the machine has no bfloat16. A GPTQ model's kernels compute in 16 bits whatever this says",
    )
    tool_call_parser: str | None = Field(
        default=None,
        pattern=NAME,
        description="vllm: which of its parsers reads the calls that the model writes (`hermes`, "
        "`llama3_json`, `mistral`, …); without one, requests with tools are refused. llama.cpp finds it out",
    )
    host: Literal["127.0.0.1", "::1"] = Field(default="127.0.0.1", description="loopback only")
    port: int = Field(default=0, ge=0, le=65535, description="0: a free one")
    context_length: int = Field(default=2048, ge=64, description="tokens")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all cores")
    ready_timeout: float = Field(default=120, gt=0, description="seconds to wait for health")
    ttl_minutes: float | None = Field(
        default=None, gt=0, description="the engine stops by itself after this long"
    )
    question: str | None = Field(default=None, description="smoke test: asked once, the answer is shown")
    system: str | None = Field(default=None, description="system message of the smoke test")
    max_new_tokens: int = Field(default=64, ge=1, description="length of the smoke test's answer")
    probes: int = Field(
        default=4, ge=0, description="held-out items asked over HTTP; the answers must be those of the file"
    )

    @model_validator(mode="after")
    def _parses_on_vllm(self) -> Self:
        if self.tool_call_parser is not None and self.engine != "vllm":
            raise ValueError(foreign_parser(self.tool_call_parser, self.engine))
        return self
