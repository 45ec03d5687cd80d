"""Answers that are JSON: whether they parse, and whether a JSON Schema accepts them.

Patterns in a schema are searched in linear time, and no reference of it leaves the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.config.bounded import linear_pattern
from stages.config.metrics import JsonSchemaMetric
from stages.errors import InvalidInput
from stages.scoring.item import ReadyMetric, single

LARGEST = 1 << 18
"""Bytes of a schema."""
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are names, not keywords."""
_VALUES = ("const", "enum", "default", "examples")
"""Keywords that hold plain JSON."""


def parses(text: str) -> bool:
    """Whether `text` is one JSON document; one that is nested too deeply to be read is not."""
    return document(text) is not None


def document(text: str) -> tuple[Any] | None:
    """The JSON value of `text` in a tuple, since it may be null; None where it is no JSON."""
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError):
        return None


def json_valid() -> ReadyMetric:
    """1 where the whole answer is a JSON document."""
    return single("json_valid", lambda answer, _: float(parses(answer)))


def schema_valid(metric: JsonSchemaMetric) -> ReadyMetric:
    """1 where the schema accepts the answer. Raises `InvalidInput` where the schema is not one."""
    validator = schema_validator(metric)

    def score(answer: str, _: Sequence[str]) -> float:
        found = document(answer)
        try:
            return float(found is not None and validator.is_valid(found[0]))
        except RecursionError:
            return 0.0

    return single(metric.name, score)


def schema_validator(metric: JsonSchemaMetric) -> Any:
    """The metric's schema, ready.

    Raises `InvalidInput` where it is not there, is not JSON or not a schema, refers to another document, or
    has a pattern that cannot be searched in linear time.
    """
    import jsonschema

    what = f"metric {metric.name}, {metric.path or 'inline'}"
    schema = metric.inline if metric.path is None else _read(Path(metric.path), what)
    if not isinstance(schema, dict | bool):
        raise InvalidInput(f"{what}: a JSON Schema is an object, found {type(schema).__name__}")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        for path, problem in _problems(schema):
            raise InvalidInput(f"{what}: {path}: {problem}")
        validator = _linear(kind)(schema)
        validator.is_valid(None)
        validator.is_valid({})
    except jsonschema.SchemaError as error:
        path = "/".join(map(str, error.absolute_path)) or "the whole"
        raise InvalidInput(f"{what} is not a JSON Schema: {path}: {error.message[:200]}") from None
    except RecursionError:
        raise InvalidInput(f"{what}: the schema refers to itself without end") from None
    except InvalidInput:
        raise
    except Exception as error:  # a reference that leads nowhere: the library has many errors for it
        raise InvalidInput(f"{what}: {str(error)[:200] or type(error).__name__}") from None
    return validator


def _read(file: Path, what: str) -> Any:
    try:
        raw = file.expanduser().read_bytes()
    except OSError as error:
        raise InvalidInput(f"{what}: cannot be read ({error.strerror}); give the path of a file") from None
    if len(raw) > LARGEST:
        raise InvalidInput(f"{what}: has {len(raw):,} bytes; a schema has at most {LARGEST:,}")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what}: is not JSON ({str(error)[:100]})") from None


def _problems(schema: Any, path: str = "#") -> Iterator[tuple[str, str]]:
    """What of the schema cannot be checked safely: (where, why)."""
    if isinstance(schema, list):
        for i, part in enumerate(schema):
            yield from _problems(part, f"{path}/{i}")
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        where = f"{path}/{key}"
        if key in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
            yield where, f"{value!r} leaves the schema; put what it names under $defs"
        for pattern in _patterns(key, value):
            try:
                linear_pattern(pattern)
            except ValueError as error:
                yield where, str(error)
        if key == "unevaluatedProperties" and "patternProperties" in schema:
            yield where, "is not supported beside patternProperties; use additionalProperties"
        if key in _MAPS and isinstance(value, Mapping):
            for name, part in value.items():
                yield from _problems(part, f"{where}/{name}")
        elif key not in _VALUES:
            yield from _problems(value, where)


def _patterns(key: str, value: Any) -> list[str]:
    if key == "pattern" and isinstance(value, str):
        return [value]
    return [str(name) for name in value] if key == "patternProperties" and isinstance(value, Mapping) else []


def _linear(kind: Any) -> Any:
    """A validator of that draft whose patterns are searched in linear time."""
    import jsonschema

    known = kind.VALIDATORS
    return (
        jsonschema.validators.extend(
            kind,
            {
                "pattern": _pattern,
                "patternProperties": _pattern_properties,
                "additionalProperties": _additional_properties,
            },
        )
        if known
        else kind
    )


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if validator.is_type(instance, "string") and not linear_pattern(pattern).found_in(instance):
        yield ValidationError(f"does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[Any]:
    if validator.is_type(instance, "object"):
        for pattern, schema in patterns.items():
            for key, value in instance.items():
                if linear_pattern(pattern).found_in(key):
                    yield from validator.descend(value, schema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not validator.is_type(instance, "object"):
        return
    patterns = [linear_pattern(pattern) for pattern in schema.get("patternProperties", ())]
    named = schema.get("properties", {})
    for key, value in instance.items():
        if key in named or any(pattern.found_in(key) for pattern in patterns):
            continue
        if validator.is_type(allowed, "object"):
            yield from validator.descend(value, allowed, path=key)
        elif not allowed:
            yield ValidationError(f"{key!r} is not allowed")
