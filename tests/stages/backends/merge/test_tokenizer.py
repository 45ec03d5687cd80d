"""Tokenizer, chat template and generation config of a merged model."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.backends.chat import load_tokenizer
from stages.config.merge import MergeConfig
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.merge import merge
from tests.stages.backends.merge.lora_models import load, save_adapter, save_llama, save_tokenizer
from tests.stages.backends.merge.merging import (
    ADAPTER,
    HEAD,
    PEFT_NOTICES,
    config_of,
    edit_tensors,
    parent,
    run,
)

pytestmark = PEFT_NOTICES


def test_carries_tokenizer_template_and_generation_config(pico_base: Parent, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    adapter = save_adapter(pico_base.path, tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()
    facts = merge({"base": pico_base, "adapter": parent(adapter, "adapter")}, MergeConfig(), out)
    chat = [{"role": "user", "content": "Hello"}]
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (pico_base.path, out))
    assert after.apply_chat_template(chat) == before.apply_chat_template(chat)
    assert (out / "generation_config.json").read_bytes() == (
        pico_base.path / "generation_config.json"
    ).read_bytes()
    assert facts.base == pico_base.base


def test_added_vocabulary_travels_with_the_adapter(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", rows=104, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(InvalidInput, match="resizes the embedding to 104 rows but carries no tokenizer"):
        run(base, adapter, tmp_path / "out")
    save_tokenizer(104, adapter)
    run(base, adapter, tmp_path / "out")
    assert config_of(tmp_path / "out")["vocab_size"] == 104
    assert len(load_tokenizer(tmp_path / "out")) == 104
    trained = load_file(adapter / ADAPTER)[f"{HEAD}.weight"]
    assert torch.equal(load(tmp_path / "out", torch.float32).lm_head.weight, trained.half().float())
    edit_tensors(adapter / ADAPTER, lambda t: t[f"{HEAD}.modules_to_save.weight"].zero_())
    with pytest.raises(InvalidInput, match="both replace one weight and differ"):
        run(base, adapter, tmp_path / "again")
    edit_tensors(adapter / ADAPTER, lambda t: [t.pop(name) for name in list(t) if name.startswith(HEAD)])
    with pytest.raises(InvalidInput, match="resizes one embedding and not the other"):
        run(base, adapter, tmp_path / "again")


def test_an_adapter_s_own_tokenizer_and_template_are_the_merged_model_s(tmp_path: Path) -> None:
    """Tokens added within the embedding's padding rows need no resized embedding."""
    base = save_llama(tmp_path / "base")
    save_tokenizer(90, base, "{{ messages[0].content }}")
    adapter = save_adapter(base, tmp_path / "adapter")
    save_tokenizer(94, adapter, "### {{ messages[0].content }}")
    run(base, adapter, tmp_path / "out")
    merged = load_tokenizer(tmp_path / "out")
    assert merged("w91 w93", add_special_tokens=False)["input_ids"] == [91, 93]
    assert merged.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False) == "### w1"
    save_tokenizer(97, adapter)
    with pytest.raises(InvalidInput, match="97 token ids, but the embedding has only 96 rows"):
        run(base, adapter, tmp_path / "again")


def test_a_template_of_its_own_is_recorded(pico_base: Parent, tmp_path: Path) -> None:
    adapter = save_adapter(pico_base.path, tmp_path / "adapter")
    shutil.copyfile(pico_base.path / "tokenizer.json", adapter / "tokenizer.json")
    shutil.copyfile(pico_base.path / "tokenizer_config.json", adapter / "tokenizer_config.json")
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    parents = {"base": pico_base, "adapter": parent(adapter, "adapter")}
    (tmp_path / "out").mkdir()
    quant = merge(parents, MergeConfig(), tmp_path / "out").quant
    assert quant is not None
    digest = hashlib.sha256(b"{{ messages[0].content }}").hexdigest()
    assert quant.effective["chat_template"] == {"present": True, "sha256": digest}
