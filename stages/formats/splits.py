"""Files of a prepared dataset's splits."""

from __future__ import annotations

from pathlib import Path

UNDESIRABLE = "_undesirable"
"""Ends the name of a split of answers that somebody called bad. They lie apart from the good ones, so that
whatever reads chats in order to learn them, or to expect their answers, does not meet them."""

ALL_SPLITS = (
    *("train", "validation", "test", "fresh"),
    *(f"{name}{UNDESIRABLE}" for name in ("train", "validation", "test")),
)
"""In the order in which they are shown; a dataset has some of them."""


def undesirable(file: Path) -> Path:
    """Beside a split's file, that of its answers that were called bad."""
    return file.with_stem(f"{file.stem}{UNDESIRABLE}")
