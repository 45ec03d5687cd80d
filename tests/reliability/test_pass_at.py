from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.reliability import pass_at
from tests.seconds import seconds


@pytest.mark.timeout(seconds(120))
def test_pass_at_k_is_unbiased_and_its_bounds_are_seldom_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full size is `python -m tests.reliability.pass_at`."""
    rng = np.random.default_rng(5)
    found = pass_at.intervals(rng, 300, "mostly hard", 100, 10, 5)
    assert abs(found.estimate - found.truth) < 4 * found.error
    assert found.plain < found.truth - 0.01
    assert max(found.above, found.below) < 0.06
    assert pass_at.wrong_passes(rng, 200, "improve", 100, 10, 5, 0.5) < 0.11
    monkeypatch.setattr(pass_at, "ITEMS", (50,))
    monkeypatch.setattr(pass_at, "DRAWN", ((5, 1),))
    monkeypatch.setattr(pass_at, "POPULATION", 10_000)
    assert pass_at.main(["--trials", "20"]) == 0

    def biased(*_: Any) -> pass_at.Found:
        return pass_at.Found(0.5, 0.4, 0.6, 0.001, 0.0, 0.0)

    monkeypatch.setattr(pass_at, "intervals", biased)
    assert pass_at.main(["--trials", "20"]) == 1
