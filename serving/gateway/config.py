"""`serve.yaml`: which engines run, and how much anybody may ask of them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.vllm.tool_parsers import NAME, foreign_parser


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSection(_Section):
    """One engine, or several of the same kind."""

    engine: Literal["llama.cpp", "vllm"] = Field(description="which engine")
    model: str = Field(
        min_length=1,
        description="what it holds: an artifact's id, NAME@VERSION, or a channel, which it then follows. "
        "The base for tenants with adapters (its GGUF; for vllm in 16 bits or GPTQ), a merged or quantized "
        "model without",
    )
    adapters: int = Field(default=16, ge=1, le=1024, description="adapters loaded at once")
    max_rank: int = Field(default=16, ge=1, description="vllm: largest rank of an adapter")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="vllm: in which type it computes; auto: the model's own, or float32 on a machine that "
        "has no bfloat16. A GPTQ model's kernels compute in 16 bits whatever this says",
    )
    tool_call_parser: str | None = Field(
        default=None,
        pattern=NAME,
        description="vllm: which of its parsers reads the calls that the model writes (`hermes`, "
        "`llama3_json`, `mistral`, …); without one, requests with tools are refused. llama.cpp finds it out",
    )
    context_length: int = Field(default=2048, ge=16, description="tokens of prompt and answer together")
    parallel: int = Field(default=4, ge=1, le=1024, description="answers decoded at once")
    queue: int = Field(default=64, ge=1, le=65536, description="answers that may wait")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all cores")
    replicas: int = Field(default=1, ge=1, le=64, description="processes of this kind")
    affinity: bool = Field(
        default=True, description="ask the replica first that had the adapter before; false: any in turn"
    )
    ready_timeout: float = Field(default=300.0, gt=0, description="seconds a start may take")

    @model_validator(mode="after")
    def _parses_on_vllm(self) -> Self:
        if self.tool_call_parser is not None and self.engine != "vllm":
            raise ValueError(foreign_parser(self.tool_call_parser, self.engine))
        return self


class Bounds(_Section):
    """What one request may be at most."""

    body_bytes: int = Field(default=1 << 20, ge=1024, description="bytes of a request's body")
    depth: int = Field(default=16, ge=4, le=128, description="nesting of its JSON")
    messages: int = Field(default=1024, ge=1, description="messages of a chat")
    max_tokens: int = Field(
        default=1024,
        ge=1,
        description="tokens of an answer; where a request does not say, so many or what the context leaves",
    )
    n: int = Field(default=1, ge=1, le=16, description="answers to one request")
    inputs: int = Field(
        default=128, ge=0, le=2048, description="texts of one request for embeddings; 0: none are given"
    )
    header_seconds: float = Field(default=10.0, gt=0, description="until a request's headers have come")
    body_seconds: float = Field(default=10.0, gt=0, description="until its body has come")
    write_seconds: float = Field(default=30.0, gt=0, description="a client may take to read what was sent")
    wait_seconds: float = Field(
        default=10.0,
        gt=0,
        description="a request is answered 429 at once if it might wait longer for its turn",
    )
    connections: int = Field(default=4096, ge=1, description="open connections")


class Address(_Section):
    """Where something listens."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(ge=0, le=65535, description="0: a free one")


class ClientAddress(Address):
    """Where clients ask."""

    port: int = Field(default=8080, ge=0, le=65535, description="0: a free one")


class OperationsAddress(Address):
    """Where an operator's tools ask for numbers and readiness."""

    port: int = Field(default=9090, ge=0, le=65535, description="0: a free one")


class ServedSection(_Section):
    """Recorded questions, asked again while others ask: is what is served still what was evaluated?"""

    per_hour: float = Field(
        default=60,
        ge=0,
        le=36000,
        description="questions an hour, at random times, to all engines and loaded adapters together; an "
        "answer has at most 16 tokens. 0: none",
    )
    least: float = Field(
        default=0.8, ge=0.05, le=0.99, description="the share of answers that has to be as recorded"
    )
    alpha: float = Field(
        default=0.01,
        gt=0,
        le=0.2,
        description="the risk that sound engines raise an alarm, ever, all together, while this gateway runs",
    )
    take_out: bool = Field(
        default=True,
        description="whether an engine gets no more requests for what it answers otherwise, once that is a "
        "hundred times surer than an alarm; false: the alarm is all",
    )


class ServeConfig(_Section):
    """The whole file."""

    gateway: ClientAddress = Field(default=ClientAddress(), description="where clients ask")
    operations: OperationsAddress = Field(
        default=OperationsAddress(), description="/metrics, /healthz and /readyz; not for clients"
    )
    engines: list[EngineSection] = Field(min_length=1, description="what serves")
    bounds: Bounds = Field(default=Bounds(), description="what one request may be at most")
    served: ServedSection = Field(
        default=ServedSection(), description="recorded questions that the engines are asked again"
    )
    shadows: int = Field(default=2, ge=0, le=64, description="shadow requests under way at once")
    metric_tenants: int = Field(
        default=200, ge=0, description="tenants with a label of their own; all others are `(other)`"
    )
    grace_seconds: float = Field(default=30.0, ge=0, description="for answers under way at the end")
