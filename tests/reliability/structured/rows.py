"""Made-up rows: requests that five tools answer or none does, and e-mails with an order of six fields.

Names, towns, goods and references are put together from parts, and so are sentences, so that most rows that
are held out have values and a wording that no other row has.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.reliability.structured import words

NONE_FITS = "None of my functions can do that."
SYSTEM = "Write the order as JSON."
Row = dict[str, Any]


class Made(NamedTuple):
    row: Row
    wording: str
    """What the row says, without its values."""
    values: frozenset[str]


def town(dice: random.Random) -> str:
    return dice.choice(words.BEGINNINGS) + dice.choice(words.ENDS)


def person(dice: random.Random) -> str:
    return f"{dice.choice(words.FIRST)} {dice.choice(words.BEGINNINGS)}{dice.choice(words.FAMILY)}"


def day(dice: random.Random) -> str:
    return f"{dice.randint(1, 28)} {dice.choice(words.MONTHS)}"


def tool(name: str, description: str, **arguments: str) -> Row:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in arguments.items()},
        "required": list(arguments),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS = (
    tool("book_room", "Book a hotel room", city="string", guests="integer", date="string"),
    tool("cancel_booking", "Cancel a booking", reference="string", refund="boolean"),
    tool("get_weather", "Weather of a day", city="string", date="string"),
    tool("convert_currency", "Convert money", amount="number", source="string", target="string"),
    tool("set_reminder", "Remind of something", text="string", time="string"),
)


def _book(dice: random.Random) -> tuple[str, Row]:
    wording = dice.choice(words.BOOK)
    return wording, {"city": town(dice), "guests": dice.randint(2, 9), "date": day(dice)}


def _cancel(dice: random.Random) -> tuple[str, Row]:
    letters = "".join(dice.choice("ABCDEFGHKLMNPRSTVWXYZ") for _ in range(2))
    refund = dice.random() < 0.5
    money = ("and refund me", "with my money back") if refund else ("no refund", "and keep the money")
    wording = dice.choice(words.CANCEL).replace("MONEY", dice.choice(money))
    return wording, {"reference": f"{letters}-{dice.randint(1000, 9999)}", "refund": refund}


def _weather(dice: random.Random) -> tuple[str, Row]:
    return dice.choice(words.WEATHER), {"city": town(dice), "date": day(dice)}


def _convert(dice: random.Random) -> tuple[str, Row]:
    source, target = dice.sample(sorted(words.COINS), 2)
    wording = dice.choice(words.CONVERT)
    return wording, {"amount": dice.randint(11, 9999), "source": source, "target": target}


def _remind(dice: random.Random) -> tuple[str, Row]:
    time = f"{dice.randint(6, 22):02}:{dice.choice(range(0, 60, 5)):02}"
    return dice.choice(words.REMIND), {"text": dice.choice(words.ERRANDS), "time": time}


ASKED: tuple[Callable[[random.Random], tuple[str, Row]], ...] = (_book, _cancel, _weather, _convert, _remind)


def call(dice: random.Random) -> Made:
    """A request with three tools, of which one fits; of seven rows about one has none that does."""
    wanted = dice.randrange(len(TOOLS))
    others = dice.sample([number for number in range(len(TOOLS)) if number != wanted], 3)
    wording, arguments = ASKED[wanted](dice)
    fits = dice.random() < 6 / 7
    if not fits and dice.random() < 0.5:
        wording, arguments = dice.choice(words.CHAT), {"city": town(dice)}
    else:
        wording = dice.choice(words.LEADS) + wording + dice.choice(words.TAILS)
    question = wording.format(**arguments)
    offered = [*others[:2], wanted] if fits else others
    dice.shuffle(offered)
    if fits and "source" in arguments:
        arguments |= {key: words.COINS[arguments[key]] for key in ("source", "target")}
    function = {"name": TOOLS[wanted]["function"]["name"], "arguments": json.dumps(arguments)}
    called = {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    answer = {"role": "assistant", **(called if fits else {"content": NONE_FITS})}
    messages = [{"role": "user", "content": question}, answer]
    row = {"tools": [TOOLS[number] for number in offered], "messages": messages}
    return Made(row, wording, frozenset(map(str, arguments.values())))


def order(dice: random.Random) -> Made:
    """An e-mail with an order, and the order as JSON of six fields."""
    express = dice.random() < 0.5
    fields = {
        "customer": person(dice),
        "item": f"{dice.choice(words.KINDS)} {dice.choice(words.GOODS)}",
        "quantity": dice.randint(2, 60),
        "city": town(dice),
        "date": day(dice),
        "express": express,
    }
    parts = (words.HELLO, words.WANT, words.WHERE, words.FAST if express else words.SLOW, words.BYE)
    wording = " ".join(filter(None, map(dice.choice, parts)))
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": wording.format(**fields)},
        {"role": "assistant", "content": json.dumps(fields)},
    ]
    return Made({"messages": messages}, wording, frozenset(map(str, fields.values())))


def made(kind: Callable[[random.Random], Made], count: int, seed: int) -> dict[str, Made]:
    """`count` rows by their question, no question twice."""
    dice, rows = random.Random(seed), dict[str, Made]()
    while len(rows) < count:
        one = kind(dice)
        rows.setdefault(one.row["messages"][-2]["content"], one)
    return rows
