"""Chats as a model sees them: rendered by its own chat template, with the tokens an answer is made of."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.backends.template import for_template, template_of, text_opening
from stages.backends.template import render as render
from stages.backends.template import require_chat_template as require_chat_template
from stages.backends.token_offsets import Span, crossed, tokenize, tokenize_apart
from stages.backends.tokenizer import Tokenizer as Tokenizer
from stages.backends.tokenizer import load_tokenizer as load_tokenizer
from stages.errors import InvalidInput
from stages.formats.messages import Message as Message
from stages.formats.messages import beside_content, is_document

_FEW = 4  # messages; up to here rendering every prefix is the fastest way
_MARK = "\N{BLACK SQUARE}"
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "Question"},
    {"role": "assistant", "content": "Answer"},
)


@dataclass(frozen=True)
class LastTurn:
    """The last answer of a chat as its template writes it; training and scoring both go by this.

    `prompt` is all that an engine is given: the chat before, with the assistant's header. What training
    teaches to write after it is `opening` (fixed text that the template puts before an answer, such as an
    empty thought), `content` (the answer as rendered: some templates trim it) and `closing`. `apart`: prompt
    and answer would share a token if they were tokenized as one, and are not.
    """

    prompt: str
    opening: str
    content: str
    closing: str
    apart: bool


def encode(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False
) -> list[int]:
    """Token ids of the rendered chat (for a prompt: with the assistant's header at its end)."""
    return tokenize(tokenizer, render(tokenizer, messages, add_generation_prompt))["input_ids"]


def encode_with_mask(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and a mask of the same length: 1 on what the assistant has to learn to write.

    That is what the template writes of every assistant turn, calls too, and the token that ends the turn, not
    the turn's header; nothing of a turn of weight 0. Of a document it is all but the token before it.
    Template markers ({% generation %}) decide where there are any; otherwise a turn is what its rendering
    adds to the rendering of the turns before it with the assistant's header.
    Raises `InvalidInput` when the template cannot be cut like this, or begins with two BOS tokens.
    """
    text, turns = assistant_spans(tokenizer, messages)
    ids, offsets = tokenize_apart(tokenizer, text, [start for start, _ in turns])
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise InvalidInput(
            f"the rendered chat begins with {tokenizer.bos_token} twice; remove one from the chat template"
        )
    control = control_tokens(tokenizer)
    mask = [0] * len(ids)
    for turn in turns:
        low, high = (bisect_left(offsets, edge, key=lambda offset: offset[0]) for edge in turn)
        inside = [
            k for k in range(max(low - 1, 0), high + 1) if k < len(ids) and _within(offsets[k], turn, text)
        ]
        for k in _through_end_of_turn(inside, ids, offsets, text, control):
            mask[k] = 1
    return ids, mask


def last_turn(tokenizer: Tokenizer, messages: Sequence[Message]) -> LastTurn:
    """The last message, the assistant's, in the pieces that training teaches.

    Raises `InvalidInput` where what is taught does not follow the prompt that an engine is given.
    """
    text, turns = assistant_spans(tokenizer, messages)
    prompt = render(tokenizer, messages[:-1], add_generation_prompt=True)
    if not turns or not text.startswith(prompt) or turns[-1][0] > len(prompt):
        raise InvalidInput(
            f"the chat template asks for an answer after {prompt[-40:]!r}, but an answer that is learned "
            "follows another text, so a trained model would be given prompts that it was not trained on; "
            "make the two agree (add_generation_prompt, {% generation %}) and give it as base.chat_template "
            "in the recipe"
        )
    taught, content = text[len(prompt) : turns[-1][1]], str(messages[-1]["content"])
    encoding = tokenize(tokenizer, text, return_offsets_mapping=True)
    apart = crossed(tokenizer, encoding, len(prompt), text)
    if {"tool_calls", "reasoning_content"} & beside_content(messages[-1]).keys():
        return _whole(tokenizer, prompt, taught, apart)
    marked = render(tokenizer, [*messages[:-1], {**messages[-1], "content": _MARK}])
    opening, _, closing = marked.removeprefix(prompt).partition(_MARK)
    for answer in (content, content.strip()):
        if f"{opening}{answer}{closing}".startswith(taught) and taught.startswith(opening + answer):
            return LastTurn(prompt, opening, answer, taught.removeprefix(opening + answer), apart)
    # the template rewrote the answer: nothing tells its own words from what it put before them
    return _whole(tokenizer, prompt, taught, apart)


def end_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end an answer: all that structure a chat, but those that the template has it begin with."""
    return frozenset(control_tokens(tokenizer)) - set(tokenize(tokenizer, opening_of(tokenizer))["input_ids"])


def opening_of(tokenizer: Tokenizer) -> str:
    """What the template puts before an answer to one message; empty where it cannot be told."""
    try:
        return last_turn(tokenizer, _PROBE).opening if tokenizer.chat_template else ""
    except InvalidInput:
        return ""


def control_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """id → text of the tokens that structure a chat and must not come out of anybody's message."""
    texts = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    texts.update(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return texts


def require_trainable_template(tokenizer: Tokenizer) -> None:
    """Raise `InvalidInput` where the chat template cannot teach a model to answer and to stop."""
    last_turn(tokenizer, _PROBE)
    ids, mask = encode_with_mask(tokenizer, _PROBE)
    trained = [token for token, learned in zip(ids, mask, strict=True) if learned]
    if not trained or trained[-1] not in control_tokens(tokenizer):
        raise InvalidInput(
            f"the chat template of {tokenizer.name_or_path} ends the assistant's turn without an end-of-turn "
            "token, so a model trained with it never stops; write {{ eos_token }} after the assistant's "
            "content and give the template in the recipe: base.chat_template: PATH_OF_A_JINJA_FILE"
        )


def assistant_spans(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """The text of a chat, and of each assistant's turn that is trained the characters it has to learn.

    Raises `InvalidInput` as `encode_with_mask`.
    """
    text = render(tokenizer, messages)
    if is_document(messages):
        return text, [(len(text_opening(tokenizer)), len(text))]
    if re.search(r"\{%-?\s*generation\b", template_of(tokenizer, messages)):
        return text, _weighed(messages, _marked_spans(tokenizer, messages, text))
    if messages[0]["role"] == "assistant":
        raise InvalidInput("the chat begins with the assistant; a user message must come first")
    spans = _framed_spans(tokenizer, messages, text) if len(messages) > _FEW else None
    if spans is not None:
        return text, _weighed(messages, spans)
    return text, _prefix_spans(tokenizer, messages, text)


def _weighed(messages: Sequence[Message], spans: list[Span]) -> list[Span]:
    """The spans of the turns that are trained, of one span for each assistant's message."""
    weights = [message.get("weight") for message in messages if message["role"] == "assistant"]
    if 0 not in weights:
        return spans
    if len(spans) != len(weights):
        raise InvalidInput(
            f"the chat template marks {len(spans)} answers with {{% generation %}} where the chat has "
            f"{len(weights)}, so it cannot be told which of them is not to be trained"
        )
    return [span for span, weight in zip(spans, weights, strict=True) if weight != 0]


def _prefix_spans(tokenizer: Tokenizer, messages: Sequence[Message], text: str) -> list[Span]:
    """Each turn by rendering the chat up to it: right for any template, quadratic in the number of turns."""
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        header = render(tokenizer, messages[:index], add_generation_prompt=True)
        turn = text if index + 1 == len(messages) else render(tokenizer, messages[: index + 1])
        if not turn.startswith(header):
            raise InvalidInput(
                f"the chat template asks for an answer after {header[-40:]!r}, but writes an answer after "
                "another text, so a trained model would be given prompts that it was not trained on; give a "
                "template whose answers begin with what add_generation_prompt writes as base.chat_template"
            )
        if not text.startswith(turn):
            raise InvalidInput(
                f"the chat template renders message {index + 1} differently when it is the last one, so "
                "the assistant's tokens cannot be identified; use single-turn rows, train the last answer "
                "only (prepare.train_on: last), or give a template that marks them with {% generation %}…"
                "{% endgeneration %} as base.chat_template in the recipe"
            )
        spans.append((len(header), len(turn)))
    return spans


def _framed_spans(tokenizer: Tokenizer, messages: Sequence[Message], text: str) -> list[Span] | None:
    """Each turn by the texts that the template puts around any content, followed through the whole chat.

    Linear in the length of the chat. None where the chat is not exactly such a sequence (the template
    looks at other turns, or changes contents), so that the slower way has to decide.
    """
    frames, header = _frames(tokenizer)
    first = next((k for k, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
    start = render(tokenizer, messages[:first])
    if not text.startswith(start):
        return None
    spans, at = [], len(start)
    for message in messages[first:]:
        if message["role"] not in frames:
            return None
        opening, closing = frames[message["role"]]
        end = at + len(opening) + len(message["content"]) + len(closing)
        if text[at:end] != f"{opening}{message['content']}{closing}":
            return None
        if message["role"] == "assistant":
            spans.append((at + header, end))
        at = end
    return spans if at == len(text) else None


def _frames(tokenizer: Tokenizer) -> tuple[dict[str, tuple[str, str]], int]:
    """role → the texts around a content; and the length of the assistant's header."""
    asked = {"role": "user", "content": _MARK}
    answered = {"role": "assistant", "content": _MARK}
    once, both = render(tokenizer, [asked]), render(tokenizer, [asked, answered])
    prompt = render(tokenizer, [asked], add_generation_prompt=True)
    again = render(tokenizer, [asked, answered, asked])
    frames = {}
    if both.startswith(prompt) and prompt.startswith(once) and again.startswith(both):
        for role, added in (("assistant", both[len(once) :]), ("user", again[len(both) :])):
            opening, mark, closing = added.partition(_MARK)
            if mark:
                frames[role] = (opening, closing)
    return frames, len(prompt) - len(once)


def _marked_spans(tokenizer: Tokenizer, messages: Sequence[Message], text: str) -> list[Span]:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat, tools = for_template(tokenizer, messages)
    _, spans = render_jinja_template(
        conversations=[chat],
        tools=tools,
        chat_template=template_of(tokenizer, messages),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    turns: list[Span] = []
    for start, end in spans[0]:  # one answer may be marked piece by piece
        joined = turns and turns[-1][1] == start
        turns.append((turns.pop()[0], int(end)) if joined else (int(start), int(end)))
    prompt = render(tokenizer, messages[:-1], add_generation_prompt=True) if len(messages) > 1 else ""
    if turns and text.startswith(prompt) and turns[-1][0] < len(prompt) < turns[-1][1]:
        turns[-1] = (len(prompt), turns[-1][1])  # what an engine is given is not for the model to write
    return turns


def _whole(tokenizer: Tokenizer, prompt: str, taught: str, apart: bool) -> LastTurn:
    """All that is taught up to the token that ends the turn, as the answer's content."""
    ends = (end for end in control_tokens(tokenizer).values() if taught.rstrip().endswith(end))
    closing = max(ends, key=len, default="")
    return LastTurn(prompt, "", taught.rstrip().removesuffix(closing), closing, apart)


def _within(offset: Span, turn: Span, text: str) -> bool:
    start, end = offset
    if start < turn[0]:
        # A token that begins in the header belongs to the turn if it brings more than white space of it.
        return bool(text[turn[0] : min(end, turn[1])].strip())
    # Some byte-level tokenizers trim spaces from offsets: a token of spaces only is (k, k), k where it ends.
    return turn[0] < end <= turn[1]


def _through_end_of_turn(
    inside: list[int], ids: list[int], offsets: Sequence[Span], text: str, control: Mapping[int, str]
) -> list[int]:
    """Leave out the white space that a template puts after the token that ends the turn."""
    last = max((k for k in inside if ids[k] in control), default=None)
    if last is None or text[offsets[last][1] : offsets[inside[-1]][1]].strip():
        return inside
    return [k for k in inside if k <= last]
