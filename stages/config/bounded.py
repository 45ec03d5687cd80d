"""Patterns that are searched in linear time: neither a pattern nor an answer can stop an evaluation."""

from __future__ import annotations

from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema


class LinearPattern:
    """A regular expression in the syntax of Rust's regex crate: no lookaround, no backreferences.

    It never backtracks, and one that would take too much memory is not compiled. ValueError for both.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        try:
            self._validator = SchemaValidator(core_schema.str_schema(pattern=pattern))
        except SchemaError as error:
            raise ValueError(
                f"{pattern!r} is not a pattern that is searched in linear time ({_reason(error)}); give one "
                "without lookaround and backreferences (syntax: docs.rs/regex)"
            ) from None

    def found_in(self, text: str) -> bool:
        """Whether it matches anywhere in `text`."""
        return self._validator.isinstance_python(text)


@lru_cache(maxsize=256)
def linear_pattern(pattern: str) -> LinearPattern:
    """The compiled pattern. ValueError where there is none; see `LinearPattern`."""
    return LinearPattern(pattern)


def _reason(error: SchemaError) -> str:
    """What the compiler says is wrong, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error:")), lines[-1])
