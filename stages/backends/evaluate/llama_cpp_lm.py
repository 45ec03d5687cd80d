"""A GGUF file as an lm-eval model, on llama.cpp, with true log-likelihoods.

Each row of a batch is a sequence of llama.cpp; what all rows begin with is read once into a sequence of its
own and shared, and the continuations of a context share the context's cells.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from llama_cpp._logger import set_verbose

from serving.cores import usable_threads
from serving.llama_cpp import bindings
from serving.llama_cpp.amx_workaround import avoid_amx
from serving.llama_cpp.bindings import Entry
from stages.backends.evaluate.continuations import common_beginning
from stages.backends.evaluate.token_lm import Row, TokenLM
from stages.errors import InvalidInput, StageError

BATCH_TOKENS = 1024


class LlamaCppLM(TokenLM):
    """Tokenizes with the GGUF's own vocabulary; `tokenizer` (the base's) only renders chats."""

    def __init__(
        self,
        path: Path,
        tokenizer: Any,
        *,
        context_length: int,
        batch_size: int,
        adapter: Path | None = None,
        **settings: Any,
    ) -> None:
        set_verbose(False)
        avoid_amx()
        self._open_model(path)
        max_length = min(context_length, llama_cpp.llama_model_n_ctx_train(self._model))
        super().__init__(tokenizer, max_length=max_length, batch_size=batch_size, **settings)
        self._open_context(path)
        if adapter is not None:
            self._put_on(adapter, path)
        self._positions: list[int] = []
        self._sequences: list[int] = []

    def _open_model(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise InvalidInput(
                f"{path.name}: llama.cpp {llama_cpp.__version__} cannot load this file; it is damaged or "
                "of a kind that this llama.cpp does not know: quantize again with the installed version"
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._width = llama_cpp.llama_vocab_n_tokens(self._vocab)

    def _open_context(self, path: Path) -> None:
        params = llama_cpp.llama_context_default_params()
        # Twice: the shared beginning lies beside the rows that were made from it.
        params.n_ctx = 2 * self.max_length
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = llama_cpp.llama_max_parallel_sequences()
        params.n_threads = params.n_threads_batch = usable_threads()
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise StageError(f"{path.name}: llama.cpp could not make a context of {params.n_ctx} tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._shared_sequence = params.n_seq_max - 1
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)

    def _put_on(self, adapter: Path, path: Path) -> None:
        """As an engine does, at run time. It is freed with the model."""
        lora = llama_cpp.llama_adapter_lora_init(self._model, str(adapter).encode())
        if not lora:
            raise InvalidInput(
                f"{adapter}: llama.cpp {llama_cpp.__version__} cannot put this on {path.name}; expected a "
                "GGUF adapter (LoRA) made for the same base model"
            )
        failed = bindings.use(self._context, lora)
        if failed:
            raise StageError(f"{adapter}: llama.cpp could not switch the adapter on (code {failed})")

    def close(self) -> None:
        """Give the model's memory back; the object cannot be used afterwards."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    @property
    def parameters(self) -> int:
        return int(llama_cpp.llama_model_n_params(self._model))

    def control_tokens(self, first: int) -> list[str]:
        """The file's tokens that structure a chat, of the ids from `first` on."""
        ids = [
            token
            for token in range(first, self._width)
            if llama_cpp.llama_vocab_get_attr(self._vocab, token) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        ]
        return [llama_cpp.llama_vocab_get_text(self._vocab, id_).decode("utf-8", "replace") for id_ in ids]

    @property
    def file_type(self) -> str:
        """What llama.cpp calls the types in the file, e.g. `Q4_K - Medium`."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, len(buffer))
        # architecture, a size that it guesses, types
        return buffer.value.decode(errors="replace").split(" ", 2)[-1]

    @property
    def tensor_bytes(self) -> int:
        return int(llama_cpp.llama_model_size(self._model))

    def _room(self) -> int:
        return self.max_length

    def _tokenize(self, text: str, special: bool) -> Row:
        return bindings.tokenize(self._vocab, text, special)

    def tok_decode(self, tokens: Sequence[int]) -> str:
        return b"".join(bindings.piece(self._vocab, token) for token in tokens).decode(errors="replace")

    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        beginning = common_beginning(rows, self._beginning)
        self._prepare(beginning, len(rows))
        entries: list[Entry] = []
        for sequence, row in enumerate(rows):
            entries += [(row[i], i, sequence, i == len(row) - 1) for i in range(len(beginning), len(row))]
        self._sequences = list(range(len(rows)))
        self._positions = [len(row) for row in rows]
        return self._decode(entries)

    def _prepare(self, beginning: Row, rows: int) -> None:
        for sequence in self._sequences:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        if beginning != self._beginning:
            llama_cpp.llama_memory_seq_rm(self._memory, self._shared_sequence, -1, -1)
            last = len(beginning) - 1
            self._decode([(t, i, self._shared_sequence, i == last) for i, t in enumerate(beginning)])
            self._beginning = beginning
        for sequence in range(rows):
            llama_cpp.llama_memory_seq_cp(self._memory, self._shared_sequence, sequence, -1, -1)

    def _add(self, kept: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        for place in set(range(len(self._sequences))) - set(kept):
            llama_cpp.llama_memory_seq_rm(self._memory, self._sequences[place], -1, -1)
        self._sequences = [self._sequences[place] for place in kept]
        positions = [self._positions[place] for place in kept]
        self._positions = [position + 1 for position in positions]
        return self._decode(
            [(*entry, True) for entry in zip(tokens, positions, self._sequences, strict=True)]
        )

    def _branch(self, parents: Sequence[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        free = range(len(self._sequences), self._shared_sequence)
        branches: list[torch.Tensor] = []
        for start in range(0, len(rows), len(free)):
            chosen = list(zip(free, parents[start:], rows[start:], strict=False))
            entries: list[Entry] = []
            for sequence, parent, row in chosen:
                llama_cpp.llama_memory_seq_cp(self._memory, self._sequences[parent], sequence, -1, -1)
                first = self._positions[parent]
                entries += [(token, first + i, sequence, True) for i, token in enumerate(row)]
            logits = self._decode(entries)
            branches += logits.split([len(row) for _, _, row in chosen])
            for sequence, _, _ in chosen:
                llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return branches

    def _decode(self, entries: Sequence[Entry]) -> torch.Tensor:
        """Read the entries; float32 logits [wanted, vocabulary] in their order."""
        rows = [
            self._decode_some(entries[start : start + BATCH_TOKENS])
            for start in range(0, len(entries), BATCH_TOKENS)
        ]
        return torch.cat(rows) if rows else torch.empty(0, self._width)

    def _decode_some(self, entries: Sequence[Entry]) -> torch.Tensor:
        bindings.fill(self._batch, entries)
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            raise StageError(
                f"llama.cpp could not read {len(entries)} tokens (code {code}); 1 means that its context is "
                "full: lower batch_size or raise context_length"
            )
        count = sum(wanted for *_, wanted in entries)
        if not count:
            return torch.empty(0, self._width)
        logits = llama_cpp.llama_get_logits(self._context)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (count, self._width)).copy())
