"""A model and its batcher in this process, over the family of canaries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from tests.serving.canaries import Family
from tests.serving.llama_cpp.asking import BASE


@pytest.fixture
def model(family: Family) -> LlamaModel:
    return LlamaModel(family.gguf, context_length=256, sequences=3, threads=1)


@pytest.fixture
def batcher(model: LlamaModel) -> Iterator[Batcher]:
    made = Batcher(model, BASE, parallel=3, queue=64, adapters=2)
    yield made
    made.stop()
