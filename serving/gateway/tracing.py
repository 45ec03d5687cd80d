"""OpenTelemetry spans, where the operator has set up an SDK; else nothing.

`opentelemetry-instrument tuneline serve …` (package opentelemetry-distro) sets one up from the OTEL_
variables. Spans hold names and sizes, never a prompt or an answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

try:
    from opentelemetry import propagate, trace
except ImportError:  # optional
    trace = None  # type: ignore[assignment]


def enabled() -> bool:
    """Whether somebody collects spans in this process."""
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextlib.contextmanager
def span(name: str, headers: Mapping[str, str]) -> Any:
    """A span around the block, under the caller's if its `traceparent` header names one."""
    if not enabled():
        yield None
        return
    context = propagate.extract({name.lower(): value for name, value in headers.items()})
    with trace.get_tracer("tuneline.gateway").start_as_current_span(
        name, context, kind=trace.SpanKind.SERVER
    ) as found:
        yield found
