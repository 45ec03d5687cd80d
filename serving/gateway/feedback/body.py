"""A client's feedback, read and checked: whatever stands in it is data, and nothing of it is interpreted."""

from __future__ import annotations

import re

from registry.feeds.traffic import Feedback
from serving.openai_api.body import parse
from serving.openai_api.errors import ApiError

LONGEST_CORRECTION = 65_536
"""Characters."""
_ID = re.compile("[0-9a-f]{32}")
_FIELDS = ("request_id", "thumbs", "score", "correction")


def read(raw: bytes) -> Feedback:
    """The feedback in `raw`. Raises `ApiError` naming the field and what was expected of it."""
    given = parse(raw, deepest=1)
    if unknown := sorted(set(given) - set(_FIELDS)):
        message = f"unknown field {unknown[0][:40]!r}; expected {', '.join(_FIELDS)}"
        raise ApiError(message, unknown[0][:40], code="unsupported_parameter")
    request, thumbs = given.get("request_id"), given.get("thumbs")
    score, correction = given.get("score"), given.get("correction")
    if not isinstance(request, str) or not _ID.fullmatch(request):
        raise ApiError("request_id: expected the value of the answer's header x-request-id", "request_id")
    if thumbs not in (None, "up", "down"):
        raise ApiError("thumbs: expected 'up' or 'down'", "thumbs")
    if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
        raise ApiError("score: expected a number from 0 to 1", "score")
    if correction is not None:
        _check(correction)
    if (thumbs, score, correction) == (None, None, None):
        raise ApiError("expected thumbs, score or correction beside request_id", "thumbs")
    return Feedback(request=request, thumbs=thumbs, score=score, correction=correction)


def _check(correction: object) -> None:
    if not isinstance(correction, str) or not correction.strip() or "\0" in correction:
        raise ApiError("correction: expected the answer as it should have been", "correction")
    if len(correction) > LONGEST_CORRECTION:
        message = f"correction: more than {LONGEST_CORRECTION:,} characters"
        raise ApiError(message, "correction", 413, "too_large")
