"""A thought before an answer: how a chat template writes it is found out by rendering one.

Where a template has a place for an assistant's `reasoning_content`, what stands around it there stands around
an answer's thought; and where the prompt already ends with its beginning, an answer begins within.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.openai_api.fields import JsonObject
from serving.openai_api.messages import Message
from serving.openai_api.pieces import overlap

_CUT = re.compile(r"[<\[][^<>\[\]\s]*$")
_LAST = re.compile(r"(<[^<>\s]+>|\[[^\[\]\s]+\])\s*$")
NO_PLACE = "messages: this model's chat template has no place for `reasoning_content`; leave it out"
"""Told where a message has a thought."""
_THOUGHT, _SAID = "probethought1", "probeanswer1"

Render = Callable[[Sequence[Message], Sequence[JsonObject], bool], str]
"""Messages, tools, and whether an answer is asked for → text."""


@dataclass(frozen=True)
class ReasoningFormat:
    """The texts around a thought, without the space around them."""

    begin: str
    end: str
    opened: bool
    """Whether the prompt has begun the thought already."""

    def split(self, text: str, ended: bool = True) -> tuple[str, str]:
        """Thought and content of an answer; `ended` false: what of both is certain however it goes on."""
        said = text.lstrip()
        if not self.opened and not said.startswith(self.begin):
            undecided = not ended and self.begin.startswith(said)
            return "", "" if undecided else text
        if self.opened and not ended and self.begin.startswith(said):
            return "", ""  # it may begin the thought once more
        thought, closed, rest = said.removeprefix(self.begin).partition(self.end)
        if not closed and not ended:
            thought = thought[: len(thought) - overlap(thought, self.end)]
        return thought.strip(), rest.lstrip()


def reasoning_format(render: Render, ends: Sequence[str]) -> ReasoningFormat | None:
    """None where the template has no place for a thought. `ends`: the texts of tokens that end an answer."""
    asked: list[Message] = [{"role": "user", "content": "Question"}]
    plain: Message = {"role": "assistant", "content": _SAID}
    try:
        prompt = render(asked, (), True)
        whole = render([*asked, {**plain, "reasoning_content": _THOUGHT}], (), False)
        without = [render([*asked, plain, *more], (), False).partition(_SAID)[0] for more in ((), asked)]
    except Exception:  # a template raises anything
        return None
    if whole.count(_THOUGHT) != 1 or whole.count(_SAID) != 1 or whole.index(_THOUGHT) > whole.index(_SAID):
        return None
    before, _, rest = whole.partition(_THOUGHT)
    end = rest.partition(_SAID)[0].strip()
    begin = _begin(before, prompt, without, end)
    if not begin or not end or any(word in begin + end for word in ends):
        return None
    return ReasoningFormat(begin, end, prompt.rstrip().endswith(begin))


def _begin(before: str, prompt: str, without: Sequence[str], end: str) -> str:
    """What stands between an answer's header and its thought, of what stands before the thought.

    `without`: what stands before answers that have none. The header is what all have in common, but for a tag
    of which only the beginning is. Where each answer has at least an empty thought, it is the last tag.
    """
    header = _common(before, prompt, *without)
    if (cut := _CUT.search(header)) is not None:
        header = header[: cut.start()]
    if begin := before[len(header) :].strip():
        return begin
    found = _LAST.search(header)
    if found is None or any("".join(text[found.start() :].split()) != found[1] + end for text in without):
        return ""
    return found[1]


def _common(*texts: str) -> str:
    """The beginning that all have in common."""
    shortest = min(texts, key=len)
    length = next((i for i, letter in enumerate(shortest) if any(t[i] != letter for t in texts)), None)
    return shortest[:length]
