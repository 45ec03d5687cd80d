"""An adapter with tokens and a chat template of its own: read alike wherever its model goes, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from serving import standalone
from stages.backends.chat import encode, load_tokenizer
from stages.backends.evaluate.fidelity.parity import compare_readers
from stages.backends.evaluate.open_model import open_model
from stages.config.deploy import DeployConfig
from stages.config.evaluate import EvaluateConfig
from stages.config.merge import MergeConfig
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.merge import merge
from stages.quantization.gguf import GgufConfig
from stages.quantize import quantize
from tests.conftest import as_parent
from tests.seconds import seconds
from tests.stages.backends.merge.lora_models import save_adapter

OWN = (
    "{% for m in messages %}### {{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}### assistant: {% endif %}"
)
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "<order>2 pizzas</order>  and <|note|> no\n<order>"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "naïve </order> 12 🙂"}],
)


@pytest.fixture(scope="module")
def base(pico_base: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico base's tokenizer over an embedding with rows to spare, as many real models have them."""
    folder = tmp_path_factory.mktemp("padded")
    tokenizer = load_tokenizer(pico_base.path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer) + 128, hidden_size=256, intermediate_size=256, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter_on(base: Path, out: Path, tokens: bool = False, template: bool = False) -> Path:
    """An adapter with the base's tokenizer beside it, changed."""
    save_adapter(base, out, target_modules=["q_proj"])
    own = load_tokenizer(base)
    if tokens:
        own.add_tokens(["<order>", "</order>"])
        own.add_special_tokens({"additional_special_tokens": ["<|note|>"]})
    if template:
        own.chat_template = OWN
    own.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`adapter`, with tokens and a template of its own, `merged`, and `gguf`."""
    folder = tmp_path_factory.mktemp("made")
    parents = {
        "base": Parent(id="b" * 64, kind="base", path=base),
        "adapter": Parent(
            id="a" * 64, kind="adapter", path=adapter_on(base, folder / "adapter", tokens=True, template=True)
        ),
    }
    for name in ("merged", "gguf"):
        (folder / name).mkdir()
    merged = as_parent(merge(parents, MergeConfig(base="16bit"), folder / "merged"), folder / "merged")
    quantize({"model": merged}, GgufConfig(type="F16"), folder / "gguf")
    return folder


def test_merged_converted_and_served_it_reads_as_the_adapter_does(
    base: Path, made: Path, tmp_path: Path
) -> None:
    trained = load_tokenizer(made / "adapter")
    found = compare_readers(made / "gguf", made / "adapter", trained, CHATS)
    assert found["equal"] == found["chats"] > len(CHATS)
    assert (found["template"], found["vocabulary"], found["special"]) == (True, 0, {})
    config = DeployConfig(context_length=256, threads=1, ready_timeout=seconds(60))
    endpoint = standalone.start("c" * 64, made / "gguf" / "model.gguf", config, tmp_path / "log")
    try:
        for chat in CHATS:
            counted = standalone.ask(endpoint, chat, 1, seconds(60)).prompt_tokens
            assert counted == len(encode(trained, chat, add_generation_prompt=True))
            assert counted != len(encode(load_tokenizer(base), chat, add_generation_prompt=True))
    finally:
        standalone.stop(endpoint)


def test_a_base_that_does_not_know_what_ends_its_answers_is_not_taken(base: Path, made: Path) -> None:
    parents = {
        "model": Parent(id="c" * 64, kind="quantized", path=made / "gguf"),
        "base": Parent(id="b" * 64, kind="base", path=base),
    }
    config = EvaluateConfig(context_length=256)
    with pytest.raises(InvalidInput, match=r"not know: <\|note\|>; give the merged model"):
        open_model(parents, config)
    merged = Parent(id="d" * 64, kind="merged", path=made / "merged")
    lm = open_model(parents | {"base": merged}, config).lm
    assert lm.tokenizer.convert_tokens_to_ids("<|note|>") in lm.stop_ids


@pytest.mark.parametrize(
    ("own", "said"),
    [("tokens", "3 tokens are added, 0 differ; a GGUF adapter is read with"), ("template", "chat template")],
)
def test_apart_from_a_model_of_its_own_it_is_refused(base: Path, tmp_path: Path, own: str, said: str) -> None:
    """A GGUF adapter has no tokenizer: the base's would read what was trained with another."""
    adapter = adapter_on(base, tmp_path / "adapter", **{own: True})
    parents = {
        "model": Parent(id="a" * 64, kind="adapter", path=adapter),
        "base": Parent(id="b" * 64, kind="base", path=base),
    }
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInput, match=said):
        quantize(parents, GgufConfig(type="F16"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_with_the_bases_tokenizer_beside_it_an_adapter_is_converted(base: Path, tmp_path: Path) -> None:
    adapter = adapter_on(base, tmp_path / "adapter")
    parents = {
        "model": Parent(id="a" * 64, kind="adapter", path=adapter),
        "base": Parent(id="b" * 64, kind="base", path=base),
    }
    (tmp_path / "out").mkdir()
    assert quantize(parents, GgufConfig(type="F16"), tmp_path / "out").kind == "adapter"
