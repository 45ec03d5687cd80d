from __future__ import annotations

import numpy as np
import pytest

from tests.reliability import labelled
from tests.seconds import seconds


@pytest.mark.timeout(seconds(60))
def test_gates_on_areas_seldom_pass_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full size is `python -m tests.reliability.labelled`; plain intervals failed in this cell."""
    found = labelled.shares(np.random.default_rng(2), 200, (20, 180), 0.95, 1)
    assert max(found["improve"], found["keep"]) < 0.06 + 3 * 0.0168
    assert min(found.values()) >= 0
    monkeypatch.setattr(labelled, "SIZES", ((30, 30),))
    monkeypatch.setattr(labelled, "AREAS", (0.8,))
    assert labelled.main(["--trials", "20"]) == 0
    monkeypatch.setattr(labelled, "shares", lambda *_: {"improve": 0.2, "keep": 0, "above": 0, "below": 0})
    assert labelled.main(["--trials", "2000"]) == 1


def test_the_true_area_is_the_one_asked_for() -> None:
    likely = labelled.drawn(np.random.default_rng(1), (4000, 4000), (0.9, 0.6), 4)
    for row, area in zip(likely, (0.9, 0.6), strict=True):
        values = labelled.pseudo_values(row.tolist(), [place < 4000 for place in range(8000)])
        assert float(np.mean(values)) == pytest.approx(area, abs=0.02)
