"""Deploy an artifact on a serving engine and prove that it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.contract import Parents, StageConfig


class DeployConfig(StageConfig):
    """Which engine serves the promoted artifact, and where."""

    engine: Literal["llama.cpp", "vllm"] = "llama.cpp"
    host: Literal["127.0.0.1", "::1"] = Field(default="127.0.0.1", description="loopback only")
    port: int = Field(default=0, ge=0, le=65535, description="0: a free one")
    context_length: int = Field(default=2048, ge=64, description="tokens")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all cores")
    ready_timeout: float = Field(default=120, gt=0, description="seconds to wait for health")
    ttl_minutes: float | None = Field(default=None, gt=0, description="the engine stops by itself after this long")
    question: str | None = Field(default=None, description="smoke test: asked once, the answer is shown")
    system: str | None = Field(default=None, description="system message of the smoke test")
