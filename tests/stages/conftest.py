"""Models, data and figures that several tests of the verbs and of their backends need."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stages.config.prepare import PrepareConfig
from stages.contract import Facts, Parent
from stages.prepare import prepare
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from tests.stages.quantizing import hf_logits

if TYPE_CHECKING:  # torch takes seconds to import, and many tests here need none
    from stages.backends.evaluate.torch_lm import TorchLM


@pytest.fixture(scope="session")
def parent_logits(pico_base: Parent) -> Any:
    """Logits of the parent on TEXT, float32, [tokens, vocabulary]."""
    return hf_logits(pico_base.path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than a pico model's products take."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """A dataset of 20 chats, each answered with one of five topics."""
    from tests.stages.backends.evaluate.asking import TOPICS, answer, chat, write_dataset

    rows = [chat(k, answer(TOPICS[k % len(TOPICS)])) for k in range(20)]
    return write_dataset(tmp_path_factory.mktemp("data") / "routing", rows)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """A dataset of 48 chats with two answers each, the chosen one JSON."""
    from tests.stages.preferring import pair, write_pairs

    draw = random.Random(0)
    return write_pairs(tmp_path_factory.mktemp("pairs"), [pair(draw) for _ in range(48)])


def _quantized(
    digit: str, parents: dict[str, Parent], config: GgufConfig | GptqConfig, folder: Any
) -> Parent:
    facts = quantize(parents, config, folder)
    return Parent(
        id=digit * 64,
        kind="quantized",
        path=folder,
        base=facts.base,
        quant=facts.quant,
        metrics=facts.metrics,
    )


@pytest.fixture(scope="session")
def pico_gguf(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    return _quantized("9", {"model": pico_base}, GgufConfig(type="F16"), tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="session")
def pico_gptq(pico_base: Parent, topics: Parent, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    config = GptqConfig(group_size=64, calibration_rows=8)
    return _quantized("8", {"model": pico_base, "dataset": topics}, config, tmp_path_factory.mktemp("gptq"))


@pytest.fixture(scope="session")
def torch_lm(pico_base: Parent) -> TorchLM:
    import torch
    from transformers import AutoModelForCausalLM

    from stages.backends.chat import load_tokenizer
    from stages.backends.evaluate.torch_lm import TorchLM
    from tests.stages.backends.evaluate.asking import settings

    tokenizer = load_tokenizer(pico_base.path)
    model = AutoModelForCausalLM.from_pretrained(pico_base.path, dtype=torch.float32)
    return TorchLM(model, tokenizer, max_length=512, **settings(tokenizer))


@pytest.fixture(scope="module")
def tokenizer_read_once(pico_base: Parent) -> Iterator[None]:
    """Reading it takes longer than all else that a small dataset needs; `test_chat` reads it each time."""
    from stages.backends import chat

    tokenizer = chat.load_tokenizer(pico_base.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "load_tokenizer", lambda path: tokenizer)
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what a stage makes."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def prepare_from(pico_base: Parent, out: Path, tokenizer_read_once: None) -> Callable[..., Facts]:
    """Prepare a dataset from a file, a folder or another source, into `out`."""

    def run(source: str | Path, **settings: Any) -> Facts:
        name = source if isinstance(source, str) else f"path:{source}"
        return prepare({"base": pico_base}, PrepareConfig(source=name, **settings), out)

    return run
