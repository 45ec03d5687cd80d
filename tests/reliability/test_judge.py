from __future__ import annotations

import numpy as np
import pytest

from tests.reliability import judge
from tests.seconds import seconds


@pytest.mark.timeout(seconds(120))
def test_a_biased_judge_passes_wrongly_when_believed_and_not_with_200_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The full size is `python -m tests.reliability.judge`."""
    monkeypatch.setattr(judge, "LABELS", (200,))
    monkeypatch.setattr(judge, "JUDGES", judge.JUDGES[2:6:3])
    found = judge.report(400)
    assert found["wrong"] == []
    improve = [cell for cell in found["cells"] if cell["role"] == "improve"]
    believed = {(cell["kind"], cell["judge"]): cell["believed"] for cell in improve}
    assert believed["shares", "for the candidate"] > 0.9
    assert believed["pairs", "for the candidate"] > 0.9
    assert "| shares, improve | for the candidate |" in judge.tables(found)


def test_a_missed_bar_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "LABELS", (200,))
    monkeypatch.setattr(judge, "KINDS", ("shares",))
    monkeypatch.setattr(judge, "JUDGES", judge.JUDGES[:1])
    monkeypatch.setattr(judge, "share_of_passes", lambda *_, **__: 0.5)
    assert len(judge.report(200)["wrong"]) == 2


@pytest.mark.parametrize("kind", judge.KINDS)
def test_the_true_difference_is_the_one_asked_for(kind: str) -> None:
    rng = np.random.default_rng(1)
    means = [judge.draw(rng, kind, judge.JUDGES[0], 0.05).said.mean() for _ in range(300)]
    assert np.mean(means) == pytest.approx(0.05, abs=4 * np.std(means) / np.sqrt(300))
