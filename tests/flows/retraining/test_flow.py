"""What Prefect's workers run, without Prefect."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import Registry


def test_prefect_that_wakes_a_schedule_which_is_over_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade whose last run another worker did: Prefect would wake it every quarter of an hour."""
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    Registry.open(tmp_path / "home").close()
    from flows.retraining.flow import retrain

    state = retrain.fn("upgrade-over")
    assert (state.name, state.is_completed()) == ("Removed", True)
