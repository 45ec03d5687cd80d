"""The items of the shipped task `general_knowledge`: `python -m tests.stages.general_knowledge` writes them.

Plain questions with one right answer and three others of the same sort, put together from the lists below:
they ask for what most models know before they are tuned. Nothing of them is from a benchmark. Whatever else
could be called right is not among the others: `NEARLY`, `ALSO` and `ALIKE` say what that is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "stages" / "tasks" / "general" / "general_knowledge.jsonl"
SEED = 16

CAPITALS = """France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Austria Vienna, Greece
Athens, Poland Warsaw, Sweden Stockholm, Norway Oslo, Finland Helsinki, Denmark Copenhagen,
Ireland Dublin, Hungary Budapest, Russia Moscow, Ukraine Kyiv, Turkey Ankara, Egypt Cairo,
Kenya Nairobi, Japan Tokyo, China Beijing, Thailand Bangkok, Vietnam Hanoi, Canada Ottawa, Cuba
Havana, Peru Lima, Chile Santiago, Australia Canberra, Iran Tehran, Iraq Baghdad"""
OPPOSITES = """hot cold, big small, tall short, fast slow, old young, light dark, happy sad, open closed,
early late, easy difficult, full empty, hard soft, heavy light, high low, loud quiet, rich
poor, strong weak, thick thin, wet dry, wide narrow, clean dirty, sharp blunt, deep shallow,
brave cowardly, first last, true false, alive dead, safe dangerous, sweet sour, near far"""
PLURALS = """child children, man men, woman women, foot feet, tooth teeth, mouse mice, goose geese, person
people, leaf leaves, knife knives, wolf wolves, half halves, box boxes, city cities, baby
babies, potato potatoes, sheep sheep, ox oxen, thief thieves, life lives"""
PAST = """go went, eat ate, see saw, take took, give gave, write wrote, run ran, come came, begin began,
break broke, bring brought, buy bought, catch caught, choose chose, do did, drink drank, drive
drove, fall fell, feel felt, fly flew, forget forgot, get got, hear heard, keep kept, know
knew, leave left, lose lost, make made, sing sang, speak spoke, swim swam, teach taught, tell
told, think thought, win won"""
SORTS = {
    "a fruit": "apple banana pear cherry grape peach",
    "an animal": "horse rabbit tiger elephant sheep dolphin",
    "a colour": "red blue green yellow purple orange",
    "a musical instrument": "violin trumpet piano flute guitar drum",
    "a tool": "hammer screwdriver saw drill pliers wrench",
    "a piece of furniture": "chair table sofa wardrobe bed desk",
    "a kind of weather": "rain snow fog hail thunder wind",
    "a means of transport": "train bicycle aeroplane ship bus tram",
}
NEARLY = (
    "small short low shallow narrow thin light",
    "quiet soft weak light cowardly blunt",
    "sour dry",
    "late last slow",
)
"""Words that nearly mean the same: where one is an opposite, the others of its line may be too."""
ALSO = {
    "person": ("persons",),
    "ox": ("oxes",),
    "mouse": ("mouses",),
    "goose": ("gooses",),
    "half": ("halfs",),
    "leaf": ("leafs",),
    "box": ("boxen",),
    "continents are there": ("4", "5", "6"),
}
"""What is asked for → what some dictionaries or schools say too."""
ALIKE = (
    {"a fruit", "a colour"},
    {"a musical instrument", "a tool"},
    {"a musical instrument", "a piece of furniture"},
    {"an animal", "a means of transport"},
    {"an animal", "a tool"},
)
"""Sorts that share a word: an orange, a saw, a piano, a horse, a drill."""
AMOUNTS = """minutes are in an hour|60, seconds are in a minute|60, hours are in a day|24, days are in a
week|7, months are in a year|12, days are in January|31, days are in April|30, centimetres are
in a metre|100, metres are in a kilometre|1000, grams are in a kilogram|1000, sides does a
triangle have|3, sides does a square have|4, legs does a spider have|8, legs does an insect
have|6, wheels does a bicycle have|2, years are in a century|100, letters are in the English
alphabet|26, continents are there|7"""
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def pairs(text: str, between: str | None = None) -> list[tuple[str, str]]:
    found = (part.strip().rsplit(between or " ", 1) for part in " ".join(text.split("\n")).split(", "))
    return [(one.strip(), other.strip(" ,")) for one, other in found]


def questions() -> Iterator[tuple[str, str, str, list[str]]]:
    """Kind, question, right answer, others."""
    rng = random.Random(SEED)
    for kind, text, asked in (
        ("capital", CAPITALS, "What is the capital of {}?"),
        ("opposite", OPPOSITES, "What is the opposite of '{}'?"),
        ("past", PAST, "What is the past tense of '{}'?"),
    ):
        known = pairs(text)
        for one, right in known:
            like = {word for line in NEARLY if right in line.split() for word in line.split()}
            yield kind, asked.format(one), right, [r for o, r in known if r not in {right, one, *like}]
    for one, right in pairs(PLURALS):
        stem = [f"{one}s", f"{one}es", f"{one}en", f"{one}ses", f"{one}i"]
        others = [s for s in stem if s not in (right, *ALSO.get(one, ()))]
        yield "plural", f"What is the plural of '{one}'?", right, others
    for sort, words in SORTS.items():
        apart = [more for other, more in SORTS.items() if other != sort and {sort, other} not in ALIKE]
        others = [word for more in apart for word in more.split()]
        for word in words.split()[:5]:
            yield "sort", f"Which of these is {sort}?", word, others
    for asked, right in pairs(AMOUNTS, "|"):
        near = [str(n) for n in (2, 3, 4, 5, 6, 7, 8, 12, 20, 24, 26, 30, 31, 50, 60, 100, 365, 1000)]
        others = [n for n in near if n not in (right, *ALSO.get(asked, ()))]
        yield "amount", f"How many {asked}?", right, others
    for names, called in ((MONTHS, "month"), (DAYS, "day")):
        for k, name in enumerate(names):
            after = names[(k + 1) % len(names)]
            yield (
                "order",
                f"Which {called} comes right after {name}?",
                after,
                [n for n in names if n not in (name, after)],
            )
    for _ in range(30):
        a, b = rng.randint(2, 20), rng.randint(2, 20)
        yield "sum", f"What is {a} + {b}?", f"{a + b}", [f"{a + b + d}" for d in (-3, -2, -1, 1, 2, 3, 10)]
    for _ in range(20):
        a, b = rng.randint(2, 10), rng.randint(2, 10)
        yield "product", f"What is {a} times {b}?", f"{a * b}", [f"{a * b + d}" for d in (-a, a, b + 1, 1, 2)]


def items() -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, question, right, others in questions():
        rng = random.Random(f"{SEED} {question} {right}")  # a question that is mended leaves the others alone
        wrong = rng.sample(sorted({other for other in others if other != right and other != "0"}), 3)
        choices = [right, *wrong]
        rng.shuffle(choices)
        if kind == "sort":
            question = f"{question[:-1]}: {', '.join(choices[:-1])} or {choices[-1]}?"
        row = {"kind": kind, "question": question, "choices": choices, "answer": choices.index(right)}
        rows.setdefault((question, right), row)
    return list(rows.values())


def text() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in items())


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
