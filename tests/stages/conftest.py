"""Models and figures that several tests of the verbs need."""

from __future__ import annotations

from typing import Any

import pytest

from stages.contract import Parent
from tests.stages.quantizing import hf_logits


@pytest.fixture(scope="session")
def parent_logits(pico_base: Parent) -> Any:
    """Logits of the parent on TEXT, float32, [tokens, vocabulary]."""
    return hf_logits(pico_base.path)
