"""How a model's chat template writes calls of functions: found out by rendering some, then held to and read.

A template is a program, and each family writes calls in a way of its own. What all have in common is that a
call's name comes before its arguments, as JSON. So two calls with names and arguments that no template holds
are rendered; the texts before, between and after them are the family's way, and no list of families is kept.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.llama_cpp.structured.constraints import SPACED
from serving.openai_api.fields import JsonObject
from serving.openai_api.messages import Message
from serving.openai_api.pieces import overlap
from serving.openai_api.tools import Tools

ID = "\0"
"""Stands for a call's id in the texts of `CallFormat`."""
_IDS = ("callid001", "callid002")
"""Of nine letters and digits, as some templates demand."""
_ID = "[a-zA-Z0-9]{9}"
_NAMES = ("probename1", "probename2")
_OBJECT = r'\{{\s*"probekey{0}"\s*:\s*"probevalue{0}"\s*\}}'
_JSON = json.JSONDecoder()

Render = Callable[[Sequence[Message], Sequence[JsonObject], bool], str]
"""Messages, tools, and whether an answer is asked for → text."""


@dataclass(frozen=True)
class CallFormat:
    """The texts around the names and arguments of an answer's calls; `ID` stands where an id does."""

    begin: str
    middle: str
    """From a name to its arguments."""
    between: str | None
    """From a call's arguments to the next name; None where an answer has one call at most."""
    end: str
    decoded: bool
    """Whether the template takes arguments as an object; else as JSON text."""

    @property
    def trigger(self) -> str:
        """What no answer begins to write but in order to call: the first word."""
        return self.begin.split()[0]

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """As the template takes them."""
        if not self.decoded:
            return list(messages)
        return [_decoded(message) if "tool_calls" in message else message for message in messages]

    def grammar(self, tools: Tools, special: Mapping[str, int]) -> str:
        """What an answer may be, for llguidance; `special`: text → id of tokens that structure a chat."""

        def text(words: str) -> str:
            return _words(words, special)

        called = " | ".join(
            f"{text(function['name'] + self.middle)} %json {json.dumps(_parameters(function))}"
            for function in tools.callable()
        )
        many = self.between is not None and tools.parallel and tools.named is None
        more = f"({text(self.between or '')} one)*" if many else ""
        rest = f"one {more} {text(self.end)}"
        if tools.required or tools.named is not None:
            start = f"start: {text(self.begin)} {rest}"
        else:
            after = self.begin.partition(self.trigger)[2]
            trigger = f"TEXT {text(self.trigger)}"
            lazy = "" if any(token in self.trigger for token in special) else "[lazy]"
            start = f"start: TEXT | head {text(after)} {rest}\nhead{lazy}: {trigger}\nTEXT: /(.|\\n)*/"
        return f"%llguidance {{}}\n{start}\none: {called}\n"

    def certain(self, text: str) -> int:
        """How many letters of an answer's beginning are text, whatever follows."""
        said, found, _ = text.partition(self.trigger)
        kept = 0 if found else overlap(said, self.trigger)
        return len(said[: len(said) - kept].rstrip())

    def read(self, answer: str) -> tuple[str, list[JsonObject]]:
        """The text before an answer's calls, and the calls; one that was cut off is left out."""
        said, found, rest = answer.partition(self.trigger)
        after = self.begin.partition(self.trigger)[2]
        if not found or not rest.startswith(after):
            return answer, []
        rest, calls = rest[len(after) :], list[JsonObject]()
        while self.middle in rest:
            name, _, rest = rest.partition(self.middle)
            try:
                arguments, length = _JSON.raw_decode(rest)
            except ValueError:
                break
            text, rest = rest[:length], rest[length:]
            further = _matched(self.between, rest)
            ended = further or _matched(self.end, rest)
            if not isinstance(arguments, dict) or ended is None:
                break
            identity = (ended.groupdict() or {}).get("id") or f"call_{uuid.uuid4().hex[:24]}"
            calls.append({"id": identity, "type": "function", "function": {"name": name, "arguments": text}})
            if further is None:
                break
            rest = rest[further.end() :]
        return (said.rstrip(), calls) if calls else (answer, [])


def call_format(render: Render, ends: Sequence[str]) -> CallFormat | None:
    """None where the template has no place for tools, or writes calls in a way that is not read here.

    `ends`: the texts of the tokens that end an answer.
    """
    for decoded in (True, False):
        one, two = (_rendered(render, count, decoded) for count in (1, 2))
        first = one and _placed(one, 1)
        if not one or not first:
            continue
        begin, middle, end = one[: first[0]], one[first[1] : first[2]], one[first[3] :]
        end = min((end.partition(word)[0] for word in ends if word in end), key=len, default=end)
        if not begin.strip() or _IDS[0] in begin + middle:
            return None
        between = _between(two, begin + _NAMES[0] + middle)
        end = end.replace(_IDS[0], ID)
        return CallFormat(begin, middle, between, end if ID in end else end.rstrip(), decoded)
    return None


def _rendered(render: Render, count: int, decoded: bool) -> str | None:
    """The answer that makes so many calls, as it follows a prompt; None where the template refuses it."""
    tools = [_tool(name) for name in _NAMES]
    asked: list[Message] = [{"role": "user", "content": "Question"}]
    calls = [_call(number, decoded) for number in range(count)]
    try:
        prompt = render(asked, tools, True)
        whole = render([*asked, {"role": "assistant", "content": "", "tool_calls": calls}], tools, False)
    except Exception:  # a template raises anything
        return None
    if any(name not in prompt for name in _NAMES):
        return None
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    common = next(i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b)
    return whole[whole.rfind("\n", 0, common) + 1 :]  # a prompt may open a thought that a call has none of


def _placed(text: str, number: int) -> tuple[int, int, int, int] | None:
    """Where a call's name and arguments begin and end; None where one of them does not stand once."""
    name, found = _NAMES[number - 1], list(re.finditer(_OBJECT.format(number), text))
    if len(found) != 1 or text.count(name) != 1 or text.index(name) > found[0].start():
        return None
    at = text.index(name)
    return at, at + len(name), *found[0].span()


def _between(two: str | None, beginning: str) -> str | None:
    if two is None or not two.startswith(beginning):
        return None
    first, second = _placed(two, 1), _placed(two, 2)
    return None if not first or not second else two[first[3] : second[0]].replace(_IDS[0], ID)


def _matched(text: str | None, rest: str) -> re.Match[str] | None:
    if text is None:
        return None
    pattern = f"(?P<id>{_ID})".join(map(re.escape, text.split(ID, 1)))
    return re.match(pattern.replace(re.escape(ID), _ID), rest)


def _words(text: str, special: Mapping[str, int]) -> str:
    """A text in llguidance's grammar: tokens that structure a chat by number, ids as what they may be."""
    pieces = re.split("(" + "|".join(map(re.escape, [ID, *special])) + ")", text)
    written = [
        f"/{_ID}/" if piece == ID else f"<[{special[piece]}]>" if piece in special else json.dumps(piece)
        for piece in pieces
        if piece
    ]
    return " ".join(written)


def _parameters(function: JsonObject) -> JsonObject:
    return {"type": "object", **(function.get("parameters") or {}), "x-guidance": SPACED}


def _tool(name: str) -> JsonObject:
    properties = {"value": {"type": "string", "description": "Value"}}
    parameters = {"type": "object", "properties": properties, "required": ["value"]}
    return {"type": "function", "function": {"name": name, "description": "Tool", "parameters": parameters}}


def _call(number: int, decoded: bool) -> JsonObject:
    arguments: Any = {f"probekey{number + 1}": f"probevalue{number + 1}"}
    arguments = arguments if decoded else json.dumps(arguments)
    function = {"name": _NAMES[number], "arguments": arguments}
    return {"id": _IDS[number], "type": "function", "function": function}


def _decoded(message: Message) -> Message:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}
