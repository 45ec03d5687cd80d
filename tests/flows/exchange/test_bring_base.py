from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.exchange import bring_base
from flows.run import find_or_make
from registry import Registry
from stages.config.base import BaseConfig


def test_a_relative_path_is_seen_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def child(_stage: str, _parents: dict[str, Any], config: BaseConfig, *_: object) -> None:
        seen.append(config.source)
        raise InterruptedError

    monkeypatch.setattr(find_or_make, "run_in_child", child)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with Registry.open(tmp_path / "home") as registry, pytest.raises(InterruptedError):
        bring_base.resolved(registry, BaseConfig(source="path:other"), tmp_path / "log")
    assert seen == [f"path:{tmp_path / 'other'}"]
