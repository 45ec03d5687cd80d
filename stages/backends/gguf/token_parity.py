"""Does llama.cpp cut text into the same tokens as the Hugging Face tokenizer of the model?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from stages.backends.chat import Message, load_tokenizer, render

log = logging.getLogger("tuneline.quantize")

CHATS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Hello  world!\n\n It's   3.14 % of 1234567, isn't it?\n    42"},),
    ({"role": "user", "content": "naïve Straße — 日本語のテスト 🙂👩‍👩‍👧 हिन्दी ไทย مرحبا\u200b"},),
    ({"role": "user", "content": "def f(x):\n\tif x != 0:\n        return x**2  # café\n\n\n"},),
    (
        {"role": "system", "content": "Answer in JSON."},
        {"role": "user", "content": '{"a": [1, 2.5e-3], "b": null}\r\n<tag attr=\'v\'/>'},
        {"role": "assistant", "content": " ok\n"},
        {"role": "user", "content": "I'VE 've THEY'RE 'll   \t trailing   "},
    ),
)
"""Where tokenizers disagree: runs of spaces, digits, contractions, scripts, emoji, code, line ends."""


def compare_tokenizers(model: Path, gguf: Path) -> dict[str, int]:
    """Token ids of `CHATS` in both engines, rendered by the model's template (plain text where it has none).

    Returns `chats` (compared), `equal` (with the same ids) and whether `bos` and `eos` ids agree. A
    difference is logged as a warning: llama.cpp would serve other tokens than the model was trained on.
    """
    import llama_cpp

    tokenizer = load_tokenizer(model)
    engine = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)
    try:
        texts = [_text(tokenizer, chat) for chat in CHATS]
        equal = sum(_same_ids(tokenizer, engine, text) for text in texts)
        bos, eos = engine.token_bos(), engine.token_eos()
    finally:
        engine.close()
    return {
        "chats": len(texts),
        "equal": equal,
        "bos": bos == (tokenizer.bos_token_id if tokenizer.bos_token_id is not None else -1),
        "eos": eos == tokenizer.eos_token_id,
    }


def _text(tokenizer: Any, chat: tuple[Message, ...]) -> str:
    if tokenizer.chat_template:
        return render(tokenizer, chat, add_generation_prompt=True)
    return "\n".join(message["content"] for message in chat)


def _same_ids(tokenizer: Any, engine: Any, text: str) -> bool:
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = engine.tokenize(text.encode(), add_bos=False, special=True)
    if ids == expected:
        return True
    pairs = enumerate(zip(expected, ids, strict=False))
    at = next((k for k, (theirs, ours) in pairs if theirs != ours), len(ids))
    message = "llama.cpp reads the chat %r as other tokens from token %d on: %s, expected %s"
    log.warning(message, text, at, ids[at : at + 4], expected[at : at + 4])
    return False
