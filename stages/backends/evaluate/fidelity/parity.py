"""Does a model read and end chats as its base does: vocabulary, special tokens, template, token ids?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.evaluation_results import Parity
from stages.backends.chat import Message, Tokenizer, load_tokenizer, render
from stages.backends.gguf.token_parity import CHATS
from stages.errors import InvalidInput
from stages.formats.gguf import read_gguf

Chat = Sequence[Message]


@dataclass(frozen=True)
class Reader:
    """How a model directory turns a chat into ids; `words[i]` is the text of id i in its vocabulary."""

    words: list[str | None]
    special: dict[str, Any]
    template: str | None
    ids: Callable[[str], list[int]]


def compare_readers(model: Path, base: Path, tokenizer: Tokenizer, chats: Sequence[Chat]) -> Parity:
    """`model` (a Hugging Face or GPTQ directory, or one with a GGUF file) against its `base` and `tokenizer`.

    `chats` and a few hard texts are rendered with each one's own template and cut by its own tokenizer.
    Returns `chats` (compared), `equal` (with the same ids), `first_difference` in words, `double_bos`,
    `template` (same text), `vocabulary` (ids that stand for other texts) and `special` (name → [found,
    expected] of the special tokens that differ).
    """
    with _of(model, tokenizer) as found:
        return _compare(found, _of_directory(base, tokenizer), tokenizer, chats)


def _compare(found: Reader, expected: Reader, tokenizer: Tokenizer, chats: Sequence[Chat]) -> Parity:
    rendered = [(chat, text) for chat in (*chats, *CHATS) if (text := _rendered(tokenizer, chat, None))]
    bos = expected.special["bos"]
    differences, double = [], False
    for chat, text in rendered:
        own = _rendered(tokenizer, chat, found.template) if found.template else text
        theirs, ours = expected.ids(text), found.ids(own or "")
        if ours != theirs:
            differences.append(_difference(ours, theirs))
            double |= bos is not None and ours[:2] == [bos, bos]
    wrong = sum(word is not None and _word(found, id_) != word for id_, word in enumerate(expected.words))
    return {
        "chats": len(rendered),
        "equal": len(rendered) - len(differences),
        "first_difference": differences[0] if differences else None,
        "double_bos": double,
        "template": found.template == expected.template,
        "vocabulary": wrong,
        "special": {
            name: [found.special.get(name), expected.special[name]]
            for name in sorted(expected.special.keys() & found.special.keys())
            if found.special.get(name) != expected.special[name]
        },
    }


def _word(reader: Reader, id_: int) -> str | None:
    return reader.words[id_] if id_ < len(reader.words) else None


def _rendered(tokenizer: Tokenizer, chat: Chat, template: str | None) -> str | None:
    """None where the template refuses the chat (some take no system message)."""
    kept = tokenizer.chat_template
    with contextlib.suppress(InvalidInput):
        tokenizer.chat_template = template or kept
        try:
            return render(tokenizer, chat, add_generation_prompt=chat[-1]["role"] != "assistant")
        finally:
            tokenizer.chat_template = kept
    return None


def _of(model: Path, tokenizer: Tokenizer) -> contextlib.AbstractContextManager[Reader]:
    gguf = sorted(model.glob("*.gguf"))
    if gguf:
        return _of_gguf(gguf[0])
    own = load_tokenizer(model) if (model / "tokenizer_config.json").is_file() else tokenizer
    return contextlib.nullcontext(_of_directory(model, own))


def _of_directory(folder: Path, tokenizer: Tokenizer) -> Reader:
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    begins = tokenizer("a")["input_ids"][:1] == [ids["bos"]]
    texts = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    # an adapter's directory does not say what ends an answer: its base's does
    stop = {"stop": _stop(folder, ids["eos"])} if (folder / "config.json").is_file() else {}
    return Reader(
        texts,
        {**ids, "adds_bos": begins, **stop},
        tokenizer.chat_template,
        lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]),
    )


def _stop(folder: Path, eos: int | None) -> list[int] | None:
    """The ids that end a generation, as the model's own settings say; its EOS where they are silent."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file() and (ids := json.loads(file.read_text()).get("eos_token_id")) is not None:
            return sorted({ids} if isinstance(ids, int) else set(ids))
    return None if eos is None else [eos]


@contextlib.contextmanager
def _of_gguf(file: Path) -> Iterator[Reader]:
    import llama_cpp

    from serving.llama_cpp import bindings

    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
    if not model:
        raise InvalidInput(f"{file.name}: llama.cpp cannot read this file; quantize again")
    vocabulary = llama_cpp.llama_model_get_vocab(model)

    def ids(text: str) -> list[int]:
        return list(bindings.tokenize(vocabulary, text, add_special=False))

    special = {
        "bos": _known(llama_cpp.llama_vocab_bos(vocabulary)),
        "eos": _known(llama_cpp.llama_vocab_eos(vocabulary)),
        "adds_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocabulary)),
    }
    texts = (
        llama_cpp.llama_vocab_get_text(vocabulary, id_)
        for id_ in range(llama_cpp.llama_vocab_n_tokens(vocabulary))
    )
    words: list[str | None] = [text.decode("utf-8", "replace") for text in texts]
    template = read_gguf(file).values.get("tokenizer.chat_template")
    try:
        yield Reader(words, special, str(template) if template is not None else None, ids)
    finally:
        llama_cpp.llama_model_free(model)


def _known(id_: int) -> int | None:
    return None if id_ < 0 else int(id_)


def _difference(ours: list[int], theirs: list[int]) -> str:
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((k for k, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    return f"from token {at} on {ours[at : at + 4]}, expected {theirs[at : at + 4]}"
