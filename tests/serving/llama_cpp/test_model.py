"""The model itself: logits with a GGUF adapter, and how long a prompt is at least."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from serving.llama_cpp.model import LlamaModel
from stages.backends.chat import encode, load_tokenizer
from tests.serving.canaries import QUESTIONS, Family


def logits_in_llama_cpp(model: LlamaModel, adapter: Path | None, tokens: list[int]) -> torch.Tensor:
    handle = None if adapter is None else model.load_adapter(adapter)
    model.use(handle)
    model.forget(0)
    model.decode([(token, i, 0, True) for i, token in enumerate(tokens)])
    found = np.stack([model.logits(i) for i in range(len(tokens))])
    model.use(None)
    return torch.from_numpy(found)


def test_a_gguf_adapter_gives_the_logits_of_peft(family: Family, model: LlamaModel) -> None:
    tokenizer = load_tokenizer(family.base)
    tokens = encode(tokenizer, [{"role": "user", "content": QUESTIONS[1]}], add_generation_prompt=True)
    plain = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    with torch.no_grad():
        expected_base = plain(torch.tensor([tokens])).logits[0]
        tuned = PeftModel.from_pretrained(plain, family.canaries[0].peft)
        expected = tuned(torch.tensor([tokens])).logits[0]
    base = logits_in_llama_cpp(model, None, tokens)
    found = logits_in_llama_cpp(model, family.canaries[0].path / "model.gguf", tokens)
    model.close()
    rounding = float((base - expected_base).norm() / expected_base.norm())
    error = float((found - expected).norm() / expected.norm())
    effect = float((found - base).norm() / base.norm())
    print(f"base {rounding:.2g}, adapter {error:.2g}, effect {effect:.2g}")
    assert rounding < 2e-3, "F16 weights against float32"
    assert error < 5e-3
    assert effect > 0.5, "and the adapter says something else than the base"


def test_how_many_tokens_a_long_prompt_has_at_least(model: LlamaModel) -> None:
    with contextlib.closing(model):
        for said in ("<|im_start|>", "a", " a", " ", "0", "é", "你", "<|im_end|>\n", "The sea is wide. "):
            text = said * (50_000 // len(said))
            assert 256 < model.least_tokens(text) <= len(model.tokenize(text, add_special=False))
            assert not model.least_tokens(said * 100), "a short one is read at once"
