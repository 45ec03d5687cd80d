"""Families whose configuration names its sizes otherwise, through every stage with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.contract import Parent
from tests.reliability.families import Trial, judge
from tests.stages.families.tiny_models import save_chats


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = save_chats(tmp_path_factory.mktemp("data") / "chats")
    return Parent(id="d" * 64, kind="dataset", path=folder)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # in BigCode
@pytest.mark.parametrize("family", ["gpt2", "mixtral", "mpt", "bloom", "gptj", "gpt_bigcode"])
def test_it_comes_through_as_the_table_says(family: str, chats: Parent, tmp_path: Path) -> None:
    trial = Trial(family, chats, tmp_path)
    found = trial.run()
    assert judge(family, found) == "", found
