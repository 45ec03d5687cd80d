"""Verifications in the background of the pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from flows.ui.screens.verification import BackgroundVerifications
from tests.serving.gateway.live_gateway import until


def test_one_that_breaks_off_says_so_and_can_be_begun_again() -> None:
    tried = []

    def verify(artifact_id: str, _heard: Any) -> list[Any]:
        tried.append(artifact_id)
        if len(tried) == 1:
            raise OSError(5, "Input/output error")
        return []

    verifications = BackgroundVerifications(cast(Any, SimpleNamespace(verify=verify)))
    artifact = cast(Any, SimpleNamespace(id="a" * 64, size=3))
    for problems in (("[Errno 5] Input/output error",), ()):
        verifications.start(artifact)
        until(lambda: verifications.of(artifact.id).ended is not None, "it ends")  # type: ignore[union-attr]
        assert verifications.of(artifact.id).problems == problems  # type: ignore[union-attr]
