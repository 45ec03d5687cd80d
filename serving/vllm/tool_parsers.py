"""vLLM's parsers of calls, one for each family's manner: how it is told of one, and which there are."""

from __future__ import annotations

import ast
from pathlib import Path

from serving.errors import NotServable

NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
_TABLE = "_TOOL_PARSERS_TO_REGISTER"


def tool_options(python: str, parser: str | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """What of vLLM's command line and environment has calls read by `parser`; None: nothing has.

    `python`: vLLM's interpreter. Raises `NotServable` for a parser that it does not have.
    """
    if parser is None:
        return (), {}
    require_parser(python, parser)
    strict = {"VLLM_ENFORCE_STRICT_TOOL_CALLING": "0"}  # else calls are held by tags that only xgrammar knows
    return ("--enable-auto-tool-choice", "--tool-call-parser", parser), strict


def foreign_parser(parser: str, engine: str) -> str:
    """Why another engine than vLLM takes no parser's name, and what to do."""
    return (
        f"tool_call_parser: {parser} is one of vLLM's parsers, and engine is {engine}, which finds out from "
        "the chat template how the model writes calls: leave it out, or set engine: vllm"
    )


def require_parser(python: str, parser: str) -> None:
    """Raise `NotServable` for a parser that the vLLM of this interpreter does not have."""
    known = parsers_of(python)
    if known and parser not in known:
        names = ", ".join(sorted(known))
        raise NotServable(f"tool_call_parser: vLLM has no {parser!r} there; set one of {names}")


def parsers_of(python: str) -> frozenset[str]:
    """The names in vLLM's own table, which is read and not run: that would take ten seconds.

    Empty where there is no such table; then vLLM says at its start what it does not have.
    """
    library = Path(python).parent.parent / "lib"
    for source in library.glob("python3*/site-packages/vllm/tool_parsers/__init__.py"):
        for statement in ast.parse(source.read_text("utf-8")).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name == _TABLE:
                    return frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))
    return frozenset()
