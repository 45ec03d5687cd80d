"""Collections without their time of grace."""

from __future__ import annotations

import pytest

from registry.gc import collect as gc


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 0.0)
