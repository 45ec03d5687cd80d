"""An OpenTelemetry span for each request, where the operator has set up an SDK; else nothing is loaded.

`opentelemetry-instrument tuneline serve …` (package opentelemetry-distro) sets one up from the OTEL_
variables. Spans hold names and sizes, never a prompt or an answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

SDK = "opentelemetry.sdk.trace"


def record(route: str, traceparent: str | None, seconds: float, entry: Mapping[str, object]) -> None:
    """A span that ends now, under the caller's if its `traceparent` header names one.

    That is two numbers; the caller's other headers for tracing, which may hold any text, are not read.
    `route`: one of a few. `entry`: what else is known of the request, text or numbers.
    """
    if SDK not in sys.modules:
        return
    from opentelemetry import propagate, trace

    ended = time.time_ns()
    parent = propagate.extract({} if traceparent is None else {"traceparent": traceparent})
    plain = {name: value for name, value in entry.items() if isinstance(value, str | int | float)}
    attributes = {f"tuneline.{name}": value for name, value in plain.items()}
    trace.get_tracer("tuneline.gateway").start_span(
        route, parent, trace.SpanKind.SERVER, attributes, start_time=ended - int(seconds * 1e9)
    ).end(ended)
