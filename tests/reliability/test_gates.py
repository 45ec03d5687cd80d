from __future__ import annotations

import json

import pytest

from tests.reliability import gates


def test_few_gates_of_each_cell_keep_their_promises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The full size is `python -m tests.reliability.gates`; in these cells it went wrong before."""
    monkeypatch.setattr(gates, "SIZES", (100, 200))
    monkeypatch.setattr(gates, "FLIPS", (0.02, 0.04))
    assert gates.main(["--trials", "4000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cells"]) == 2 * (3 + 3 + 1) * 2 - 4
    assert max(cell["tango_alone"] for cell in found["cells"]) > 0.06, (
        "the guard has nothing to guard against"
    )


def test_a_missed_bar_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "SIZES", (200,))
    monkeypatch.setattr(gates, "FLIPS", (0.02,))
    monkeypatch.setattr(gates, "HIGHEST", 0.001)
    assert gates.report(2000)["wrong"]
    assert "n = 200" in gates.tables(gates.report(500))
