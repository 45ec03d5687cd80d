from __future__ import annotations

import numpy as np
import pytest

from tests.reliability import slices
from tests.seconds import seconds


@pytest.mark.timeout(seconds(120))
def test_one_of_many_slices_is_seldom_shown_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full size is `python -m tests.reliability.slices`."""
    found = slices.shares(np.random.default_rng(3), 100, 8, 100)
    assert found.alone > 0.15
    assert found.holm < 0.12
    assert found.passed <= found.holm
    monkeypatch.setattr(slices, "SIZES", ((2, 50),))
    assert slices.main(["--trials", "20"]) == 0
    monkeypatch.setattr(slices, "shares", lambda *_: slices.Shares(2, 50, 0.1, 0.1, 0.0, 0.0))
    assert slices.main(["--trials", "2000"]) == 1
