"""Which families of models GPTQ can be had of: known before any work, from names alone."""

from __future__ import annotations

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path

from stages.errors import InvalidInput

UNREADABLE: dict[str, str] = {}
"""Families that GPTQModel 7.6 knows by name and that do not come through it → why."""


def require_quantizable(family: str, source: str) -> None:
    """Raise `InvalidInput` by name where GPTQ cannot be had of this `model_type`.

    An empty name is not known and not refused; nor is any where GPTQModel is not installed.
    """
    known = known_to_gptqmodel()
    if not family or known is None:
        return
    if family not in known:
        reason = f"GPTQModel knows no family {family!r}"
    elif family in UNREADABLE:
        reason = UNREADABLE[family]
    else:
        return
    raise InvalidInput(
        f"{source}: model_type {family} cannot be quantized with GPTQ here ({reason}); use method: gguf, or "
        "leave the GPTQ section out"
    )


@lru_cache
def known_to_gptqmodel() -> frozenset[str] | None:
    """The `model_type`s of GPTQModel's own table; None where it is not installed.

    The table is a dictionary literal and what is added to it; it is read without importing the package, which
    loads torch and takes seconds.
    """
    spec = importlib.util.find_spec("gptqmodel")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "models" / "auto.py"
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError):
        return None
    found: set[str] = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if ast.unparse(target) == "MODEL_MAP" and isinstance(node, ast.Assign):
                keys = node.value.keys if isinstance(node.value, ast.Dict) else []
                found |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                found |= {str(target.slice.value)} if ast.unparse(target.value) == "MODEL_MAP" else set()
    return frozenset(found) or None
