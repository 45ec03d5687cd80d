"""What may be logged of an exception that a client's words may have found their way into."""

from __future__ import annotations

import traceback
from pathlib import Path


def frames(error: BaseException) -> str:
    """Its kind and where it came from, without its message, and the same of what it was raised from."""
    parts = []
    while True:
        calls = reversed(traceback.extract_tb(error.__traceback__))
        where = " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls)
        parts.append(f"{type(error).__name__} at {where or 'an unknown place'}")
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None or len(parts) == 5:
            return "; after ".join(parts)
        error = before
