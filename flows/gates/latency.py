"""Durations of requests to a candidate, from the file that `tuneline gate --latency` is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from flows.errors import Usage


def read_latency(path: Path | None, subject: str | None) -> Sequence[float] | None:
    """Milliseconds of each request in `path`; None without a file.

    Raises `Usage` for a file that cannot be read, or was measured on another artifact than `subject`.
    """
    if path is None:
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
        durations = [float(value) for value in document["milliseconds"]]
        measured = document["subject"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Usage(
            f'--latency {path}: expected {{"subject": ID, "milliseconds": [durations]}} ({error})'
        ) from None
    if subject is not None and measured != subject:
        raise Usage(f"--latency {path} was measured on {str(measured)[:12]}, not on {subject[:12]}")
    if not durations or not all(0 < value < float("inf") for value in durations):
        raise Usage(f"--latency {path}: expected at least one duration, all finite and above 0")
    return durations
