"""One GGUF model in this process, with adapters beside it and several sequences at once.

Thin over llama.cpp's C interface: nothing here decides what is run. One thread at a time may call it, but
for `tokenize` and `piece`, which only read the vocabulary.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp as low
import numpy as np
from numpy.typing import NDArray

from serving.errors import EngineFailed, NotServable
from serving.llama_cpp import bindings
from serving.llama_cpp.adapter_memory import AdapterHost
from serving.llama_cpp.amx_workaround import avoid_amx
from serving.llama_cpp.bindings import Adapter, Entry
from serving.llama_cpp.sampling import Sampler, Sampling
from serving.llama_cpp.structured.constraints import Constraint, Constraints

BATCH_TOKENS = 512
"""Read in one call; longer prompts are read in pieces, between which others have their turn."""

STATES_TOKENS = 64
"""Read in one call where states are wanted: llama.cpp then makes the logits of each token too, and keeps the
room for them (4 bytes for each of the vocabulary) from the first such call on."""

SHORT_BYTES = 16_384
"""Of a prompt that is read into tokens at once."""

SPECIAL = low.LLAMA_TOKEN_ATTR_CONTROL | low.LLAMA_TOKEN_ATTR_USER_DEFINED | low.LLAMA_TOKEN_ATTR_UNKNOWN

_log_callback: Any = None
"""C holds it without a reference."""


class LlamaModel:
    """`sequences` independent contexts of `context_length` tokens over one set of weights."""

    def __init__(self, path: Path, context_length: int, sequences: int, threads: int | None) -> None:
        """Raises `NotServable` when llama.cpp cannot load the file or make the contexts."""
        log_warnings_only()
        avoid_amx()
        params = low.llama_model_default_params()
        self._model = low.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise NotServable(f"{path}: llama.cpp {low.__version__} cannot load this file; see its log")
        self._path = path
        self._host: AdapterHost | None = None
        self._vocab = low.llama_model_get_vocab(self._model)
        self.vocabulary = int(low.llama_vocab_n_tokens(self._vocab))
        self.width = int(low.llama_model_n_embd_out(self._model))
        self.context_length = context_length
        setting = low.llama_context_default_params()
        setting.n_ctx = sequences * (-(-context_length // 256) * 256)
        setting.n_batch = setting.n_ubatch = BATCH_TOKENS
        setting.n_seq_max = sequences
        setting.kv_unified = False  # each sequence has cells of its own
        if self.metadata(f"{self.metadata('general.architecture')}.pooling_type") is not None:
            setting.pooling_type = low.LLAMA_POOLING_TYPE_NONE  # states of tokens, whatever the file says
        setting.swa_full = True
        setting.no_perf = True
        if threads is not None:
            setting.n_threads = setting.n_threads_batch = threads
        self._context = low.llama_init_from_model(self._model, setting)
        if not self._context:
            low.llama_model_free(self._model)
            raise NotServable(
                f"{path}: llama.cpp could not make {sequences} contexts of {context_length} tokens; "
                "lower context_length or the number of answers at once"
            )
        self._memory = low.llama_get_memory(self._context)
        self._batch = low.llama_batch_init(BATCH_TOKENS, 0, 1)

    def close(self) -> None:
        """Free everything, adapters too; the object cannot be used afterwards."""
        low.llama_batch_free(self._batch)
        low.llama_free(self._context)
        if self._host is not None:
            self._host.close()
        low.llama_model_free(self._model)

    def metadata(self, key: str) -> str | None:
        """A text of the file's header."""
        size = low.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        low.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode(errors="replace")

    def special(self, which: str) -> str:
        """The text of the `bos` or `eos` token; empty where the model has none."""
        token = {"bos": low.llama_vocab_bos, "eos": low.llama_vocab_eos}[which](self._vocab)
        return "" if token < 0 else low.llama_vocab_get_text(self._vocab, token).decode(errors="replace")

    def tokenize(self, text: str, add_special: bool) -> tuple[int, ...]:
        """Token ids; special tokens in the text count as such, as in training."""
        return bindings.tokenize(self._vocab, text, add_special)

    def least_tokens(self, text: str) -> int:
        """No more tokens than `tokenize` would find, without its time, which grows with the square of a long
        text's special tokens: a megabyte of them took 54 s."""
        raw = text.encode()
        if len(raw) <= SHORT_BYTES:
            return 0
        longest, special = self._spelling
        return max(len(raw) // longest, *map(raw.count, special))

    @cached_property
    def _spelling(self) -> tuple[int, tuple[bytes, ...]]:
        """The most bytes that a token stands for, and the texts that are a token wherever they stand."""
        texts = [low.llama_vocab_get_text(self._vocab, token) for token in range(self.vocabulary)]
        attributes = [low.llama_vocab_get_attr(self._vocab, token) for token in range(self.vocabulary)]
        special = {text for text, how in zip(texts, attributes, strict=True) if how & SPECIAL and text}
        return max(map(len, texts)), tuple(special)

    def control_tokens(self) -> dict[str, int]:
        """Text → token of those that structure a chat."""
        return {
            self.name_of(token).decode(errors="replace"): token
            for token in range(self.vocabulary)
            if low.llama_vocab_get_attr(self._vocab, token) & low.LLAMA_TOKEN_ATTR_CONTROL
        }

    def name_of(self, token: int) -> bytes:
        """The token's text in the vocabulary, also of a special one."""
        text: bytes = low.llama_vocab_get_text(self._vocab, token)
        return text

    def piece(self, token: int) -> bytes:
        """The token's text, which may end within a character; nothing for a special token."""
        return bindings.piece(self._vocab, token)

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(low.llama_vocab_is_eog(self._vocab, token))

    def load_adapter(self, path: Path) -> Adapter:
        """Raises `NotServable` for a file that is not a LoRA, or not one for this model."""
        if self._host is None:
            self._host = AdapterHost(self._path, self._model)
        return self._host.load(path)

    def free_adapter(self, adapter: Adapter) -> None:
        """It must not be in use; `use` something else first."""
        assert self._host is not None
        self._host.free(adapter)

    def use(self, adapter: Adapter | None) -> None:
        """Decode with this adapter, and no other, from now on; None: with the model alone."""
        failed = bindings.use(self._context, adapter)
        if failed:
            raise EngineFailed(f"llama.cpp could not switch adapters (code {failed})")

    def forget(self, sequence: int, since: int = 0) -> None:
        """Drop a sequence's keys and values from position `since` on."""
        if not low.llama_memory_seq_rm(self._memory, sequence, since, -1):
            raise EngineFailed(f"llama.cpp could not drop sequence {sequence} from position {since} on")

    def decode(self, entries: Sequence[Entry]) -> None:
        """Read at most `BATCH_TOKENS` entries. Raises `EngineFailed`."""
        bindings.fill(self._batch, entries)
        code = low.llama_decode(self._context, self._batch)
        if code != 0:
            raise EngineFailed(f"llama.cpp could not read {len(entries)} tokens (code {code})")

    def states(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        """Read at most `STATES_TOKENS` entries: their states after the last norm, [entries, width].

        Raises `EngineFailed`.
        """
        low.llama_set_embeddings(self._context, True)
        try:
            self.decode([(token, position, sequence, True) for token, position, sequence, _ in entries])
            states = low.llama_get_embeddings(self._context)
            if not states:
                raise EngineFailed("llama.cpp has no states of the tokens that it has read")
            return np.ctypeslib.as_array(states, (len(entries), self.width)).copy()
        finally:
            low.llama_set_embeddings(self._context, False)

    def logits(self, index: int) -> NDArray[np.float32]:
        """A copy of the logits [vocabulary] of entry `index` of the last call of `decode`."""
        logits = low.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(logits, (self.vocabulary,)).copy()

    @cached_property
    def constraints(self) -> Constraints:
        """What holds answers to schemas; any thread may compile with it."""
        return Constraints(self._vocab, [token for token in range(self.vocabulary) if self.ends(token)])

    def sampler(self, how: Sampling, constraint: Constraint | None = None) -> Sampler:
        """A chooser of tokens with a memory of its own, for one answer."""
        return Sampler(self._context, self.vocabulary, self.context_length, how, constraint)


def log_warnings_only() -> None:
    """Let llama.cpp write warnings and errors to standard error.

    llama-cpp-python's own choice is 2,000 lines for each load, or nothing on why it failed.
    Levels are ggml's: debug 1, info 2, warning 3, error 4, 5 goes on with the line before.
    """
    global _log_callback
    shown = False

    @low.llama_log_callback
    def write(level: int, text: bytes, _: Any) -> None:
        nonlocal shown
        shown = shown if level == 5 else level >= 3
        if shown:
            sys.stderr.write(text.decode(errors="replace"))
            sys.stderr.flush()

    _log_callback = write
    low.llama_log_set(write, None)
