"""Imports of the large libraries in half of their time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def quickly() -> Iterator[None]:
    """Within it transformers, and what is built on it, is imported in 2.8 s in place of 4.9.

    Imports make no garbage, and looking for some takes a quarter of their time; and transformers imports
    scikit-learn, for assisted generation alone, which takes half as long as torch.
    """
    modules = cast(Any, sys.modules)
    absent = "sklearn" not in modules
    gc.disable()
    if absent:
        modules["sklearn"] = None
    try:
        yield
    finally:
        if absent:
            del modules["sklearn"]  # a task of lm-eval may need it
        gc.enable()
