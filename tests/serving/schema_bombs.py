"""211 JSON schemas made to hold an engine up: large, deep, ambiguous, contradictory, or not done at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]


def _object(count: int, required: bool = False, **more: Any) -> Schema:
    names = [f"p{number}" for number in range(count)]
    needed = {"required": names} if required else {}
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, **needed, **more}


def _nested(depth: int, wrap: Callable[[Schema], Schema]) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = wrap(schema)
    return schema


def _doubling(depth: int, key: str) -> Schema:
    """`$defs` of which each stands twice in the next: 2 ** depth alternatives in a few hundred bytes."""
    names = [f"d{number}" for number in range(depth)]
    steps = {
        name: {key: [{"$ref": f"#/$defs/{after}"}, {"$ref": f"#/$defs/{after}"}]}
        for name, after in zip(names, [*names[1:], "end"], strict=True)
    }
    return {"$defs": {**steps, "end": {"type": "string"}}, "$ref": "#/$defs/d0"}


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def bombs() -> Iterator[tuple[str, Schema]]:
    """Name and schema."""
    for count in (10, 50, 100, 200, 300, 500, 800, 1200, 1600, 2400):
        yield f"{count} optional properties", _object(count, additionalProperties=False)
        yield f"{count} required properties", _object(count, required=True, additionalProperties=False)
        yield f"{count} optional properties and more", _object(count)
        yield f"an enum of {count}", {"enum": [f"value {number}" for number in range(count)]}
        objects = [{"type": "object", "properties": {"a": {"const": n}}} for n in range(count)]
        yield f"anyOf {count} objects", {"anyOf": objects}
        yield f"allOf {count} objects", {"allOf": objects[:count]}
        yield f"oneOf {count} constants", {"oneOf": [{"const": "x" * n} for n in range(count // 4)]}
    for depth in (5, 10, 20, 30, 40, 60, 100, 300):
        yield f"objects {depth} deep", _nested(depth, lambda s: {"type": "object", "properties": {"a": s}})
        yield f"arrays {depth} deep", _nested(depth, lambda s: {"type": "array", "items": s})
        yield f"anyOf {depth} deep", _nested(depth, lambda s: {"anyOf": [s, {"type": "number"}]})
        yield f"allOf {depth} deep", _nested(depth, lambda s: {"allOf": [s, {"minLength": 1}]})
        yield f"anyOf doubled {depth} times", _doubling(depth, "anyOf")
        yield f"allOf doubled {depth} times", _doubling(depth, "allOf")
        yield f"oneOf doubled {depth} times", _doubling(depth, "oneOf")
    for count in (10, 100, 1000, 10_000, 1_000_000, 2**31, 2**63):
        yield f"at least {count} items", {"type": "array", "items": {"type": "integer"}, "minItems": count}
        yield f"at most {count} items", {"type": "array", "items": {"enum": ["a", "aa"]}, "maxItems": count}
        yield f"at least {count} letters", {"type": "string", "minLength": count}
        yield f"at most {count} letters", {"type": "string", "maxLength": count}
        yield f"the pattern (a{{1,{count}}}){{1,{count}}}", _pattern(f"^(a{{1,{count}}}){{1,{count}}}$")
        yield f"the pattern .*a.{{{count}}}", _pattern(f"^.*a.{{{count}}}$")
        yield (
            f"multiples of 1/{count}",
            {"type": "number", "multipleOf": 1 / count, "minimum": 0, "maximum": 9},
        )
    for pattern in (
        "(a+)+$", "(a|aa)*b(a|aa){50}", "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y",
        "(.*)*.*=.*", "[a-z]{1,1000}", "^(?=a).*$", r"(a)\1", "(", "a{3,1}", "\\p{L}{1,500}",
        "(a?){200}a{200}",
        "^.{0,2000}$", "(ab|a|b)*c(ab|a|b){30}",
    ):  # fmt: skip
        yield f"the pattern {pattern}", _pattern(pattern)
    tree = {"type": "object", "properties": {key: {"$ref": "#/$defs/t"} for key in "lr"}}
    odd: dict[str, Schema] = {
        "itself": {"$ref": "#"},
        "a loop": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "another host": {"$ref": "https://example.com/schema.json"},
        "a file": {"$ref": "file:///etc/passwd"},
        "nothing there": {"$ref": "#/$defs/missing"},
        "x-guidance": {"type": "object", "x-guidance": {"whitespace_pattern": "(a|aa)*"}},
        "if and then": {"if": {"type": "object"}, "then": {"required": ["a"]}},
        "not": {"not": {"type": "object"}},
        "unique items": {"type": "array", "uniqueItems": True},
        "contains": {"type": "array", "contains": {"const": 1}},
        "property names": {"type": "object", "propertyNames": {"pattern": "^a"}},
        "dependent": {"dependentRequired": {"a": ["b"]}},
        "a type that is none": {"type": "text"},
        "no value": {"type": "integer", "minimum": 5, "maximum": 4},
        "an empty enum": {"enum": []},
        "nothing": {"allOf": [{"type": "string"}, {"type": "integer"}]},
        "a huge number": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
        "a tiny number": {"type": "number", "minimum": 1e-300, "maximum": 2e-300},
        "a date that is none": {"type": "string", "format": "sundial"},
        "a long constant": {"const": "x" * 50_000},
        "constants as long as may be": {"enum": [letter * 2000 for letter in "abcdefghij"]},
        "a tree": {"$defs": {"t": tree}, "$ref": "#/$defs/t"},
    }  # fmt: skip
    yield from odd.items()
