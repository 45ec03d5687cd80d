"""What an engine is started for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSettings:
    """How much one engine holds and does at once."""

    context_length: int = 2048
    """Tokens of one answer's context."""
    parallel: int = 4
    """Answers decoded at once."""
    queue: int = 64
    """Answers that may wait."""
    adapters: int = 16
    """0: a merged or quantized model by itself."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    ready_timeout: float = 300.0
    """Seconds."""
