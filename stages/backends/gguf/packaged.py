"""Read a GGUF file that a package ships: its tokenizer and its weights, as Hugging Face files."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import gguf as gguf_library
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from stages.errors import InvalidInput
from stages.formats.gguf import read_gguf

PROBE = "Hello  world!\n\n In 2024, it's 3.14 % naïve — 日本語 🙂\tdef f(x):\n    return x+10 \na   7\n    42"
"""Where pre-tokenizers disagree: digits (also after spaces), contractions, accents, scripts, emoji, code."""


def read_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer and chat template of a GGUF file.

    Raises `InvalidInput` when it does not give the token ids that llama.cpp gives on the same file.
    """
    # To choose a class, AutoTokenizer would read the whole header first, by a reader ten times slower.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _restore_digits(tokenizer, gguf)
    _same_ids_as_llama_cpp(tokenizer, gguf)
    return tokenizer


def _restore_digits(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """transformers 5.19 drops the step of SmolLM's pre-tokenizer that puts each digit on its own."""
    if read_gguf(gguf).values.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write tokenizer and chat template as transformers 4 and 5 read them, with nothing of this machine."""
    tokenizer.save_pretrained(out)
    file = out / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for local in ("is_local", "local_files_only", "backend"):
        settings.pop(local, None)
    # transformers 5 writes the name of its own class, which transformers 4 does not know; both know this one
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _same_ids_as_llama_cpp(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    expected = _llama_cpp_ids(gguf, PROBE)
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if ids != expected:
        raise InvalidInput(
            f"{gguf.name}: transformers reads its tokenizer differently from llama.cpp "
            f"({len(ids)} ids against {len(expected)} on the same text), so what is trained would not be "
            "what is served; use the model's original Hugging Face files (hub: or path:) instead"
        )


def _llama_cpp_ids(gguf: Path, text: str) -> list[int]:
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
    if not model:
        raise InvalidInput(
            f"{gguf.name}: llama.cpp cannot read this file; fetch it again, or use another base"
        )
    try:
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 2))()
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, len(ids), False, True)
        return list(ids[:count])
    finally:
        llama_cpp.llama_model_free(model)


def convert(gguf: Path, dtype: torch.dtype, out: Path) -> None:
    """Write a GGUF's weights, dequantized to `dtype`, its tokenizer and chat template under `out`."""
    try:
        with _parsed_once():
            tokenizer = read_tokenizer(gguf)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=dtype,
            )
    except (ValueError, NotImplementedError, KeyError) as error:
        raise InvalidInput(
            f"{gguf.name}: transformers cannot convert this GGUF ({error}); expected a decoder model of an "
            "architecture that it knows; use its original Hugging Face files (hub: or path:) instead"
        ) from error
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(out)
    save_tokenizer(tokenizer, out)


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers 5.19 parses the file for tokenizer, configuration and weights in turn, and makes the map
    of tensor names anew for each tensor: two thirds of the time. Both depend on their arguments alone."""
    originals = {name: getattr(gguf_library, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in originals.items():
        setattr(gguf_library, name, functools.cache(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf_library, name, original)
