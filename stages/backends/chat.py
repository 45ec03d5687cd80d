"""Chats as a model sees them: rendered by its own chat template, with the tokens an answer is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.errors import InvalidInput

Tokenizer = Any
"""A fast Hugging Face tokenizer; transformers' own class hierarchy is not ours to name."""
Message = Mapping[str, str]
Span = tuple[int, int]
"""Characters [start, end) of a rendered chat."""


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer in a Hugging Face directory; nothing is fetched and no code from there is run.

    Raises `InvalidInput` when the directory holds none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and bare Exception here
        raise InvalidInput(
            f"{path}: no tokenizer could be read ({_first_line(error)}); expected tokenizer.json and "
            "tokenizer_config.json beside the weights: save them with tokenizer.save_pretrained(...)"
        ) from error


def render(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The text of a chat. Tokenize it with `add_special_tokens=False`: the template writes its own.

    `add_generation_prompt` appends the header of an assistant turn. Some templates put a system message
    of their own before chats that have none.
    Raises `InvalidInput` without a chat template, or when the template refuses these messages.
    """
    import jinja2

    require_chat_template(tokenizer)
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"the chat template refuses the roles {[m['role'] for m in messages]}: {_first_line(error)}"
        ) from error


def encode(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False
) -> list[int]:
    """Token ids of the rendered chat (for a prompt: with the assistant's header at its end)."""
    return _tokenize(tokenizer, render(tokenizer, messages, add_generation_prompt))["input_ids"]


def encode_with_mask(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and a mask of the same length: 1 on what the assistant has to learn to write.

    That is the content of every assistant turn and the token that ends the turn, not the turn's header.
    Template markers ({% generation %}) decide where there are any; otherwise a turn is what its rendering
    adds to the rendering of the turns before it with the assistant's header.
    Raises `InvalidInput` when the template cannot be cut like this, or begins with two BOS tokens.
    """
    text, turns = _assistant_spans(tokenizer, messages)
    encoding = _tokenize(tokenizer, text, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise InvalidInput(
            f"the rendered chat begins with {tokenizer.bos_token} twice; remove one from the chat template"
        )
    control = control_tokens(tokenizer)
    mask = [0] * len(ids)
    for turn in turns:
        inside = [k for k, offset in enumerate(encoding["offset_mapping"]) if _within(offset, turn)]
        for k in _through_end_of_turn(inside, ids, encoding["offset_mapping"], text, control):
            mask[k] = 1
    return ids, mask


def control_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """id → text of the tokens that structure a chat and must not come out of anybody's message."""
    found = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    found.update(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return found


def require_chat_template(tokenizer: Tokenizer) -> None:
    """Raise `InvalidInput` where the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise InvalidInput(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, so chats cannot be rendered; "
            "give one in the recipe: base.chat_template: PATH_OF_A_JINJA_FILE"
        )


def require_trainable_template(tokenizer: Tokenizer) -> None:
    """Raise `InvalidInput` where the chat template cannot teach a model to answer and to stop."""
    probe = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]
    ids, mask = encode_with_mask(tokenizer, probe)
    trained = [token for token, learned in zip(ids, mask, strict=True) if learned]
    if not trained or trained[-1] not in control_tokens(tokenizer):
        raise InvalidInput(
            f"the chat template of {tokenizer.name_or_path} ends the assistant's turn without an end-of-turn "
            "token, so a model trained with it never stops; write {{ eos_token }} after the assistant's "
            "content and give the template in the recipe: base.chat_template: PATH_OF_A_JINJA_FILE"
        )


def _assistant_spans(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    text = render(tokenizer, messages)
    if re.search(r"\{%-?\s*generation\b", str(tokenizer.get_chat_template())):
        return text, _marked_spans(tokenizer, messages)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if index == 0:
            raise InvalidInput("the chat begins with the assistant; a user message must come first")
        header = render(tokenizer, messages[:index], add_generation_prompt=True)
        turn = text if index + 1 == len(messages) else render(tokenizer, messages[: index + 1])
        if not (turn.startswith(header) and text.startswith(turn)):
            raise InvalidInput(
                f"the chat template renders message {index + 1} differently when it is the last one, so "
                "the assistant's tokens cannot be told apart; use single-turn rows, or give a template that "
                "marks them with {% generation %}…{% endgeneration %} as base.chat_template in the recipe"
            )
        spans.append((len(header), len(turn)))
    return text, spans


def _marked_spans(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Span]:
    from transformers.utils.chat_template_utils import render_jinja_template

    _, spans = render_jinja_template(
        conversations=[[dict(m) for m in messages]],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return [(int(start), int(end)) for start, end in spans[0]]


def _tokenize(tokenizer: Tokenizer, text: str, **options: bool) -> dict[str, Any]:
    if not tokenizer.is_fast:
        raise InvalidInput(
            f"{type(tokenizer).__name__} gives no character offsets; convert the tokenizer to tokenizer.json"
        )
    # verbose=False: the length is judged by prepare, against the recipe, not by the tokenizer's warning
    encoding: dict[str, Any] = tokenizer(text, add_special_tokens=False, verbose=False, **options)
    return encoding


def _within(offset: Span, turn: Span) -> bool:
    # Byte-level tokenizers trim spaces from offsets: a token of spaces only is (k, k), k where it ends.
    return offset[0] >= turn[0] and turn[0] < offset[1] <= turn[1]


def _through_end_of_turn(
    inside: list[int], ids: list[int], offsets: Sequence[Span], text: str, control: Mapping[int, str]
) -> list[int]:
    """Leave out the white space that a template puts after the token that ends the turn."""
    last = max((k for k in inside if ids[k] in control), default=None)
    if last is None or text[offsets[last][1] : offsets[inside[-1]][1]].strip():
        return inside
    return [k for k in inside if k <= last]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
