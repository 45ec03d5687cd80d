"""What the data's files and first rows say, before anything is tokenized."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path

from stages.errors import StageError
from stages.prepare import PrepareConfig, first_rows

LARGEST = 2_000_000_000
"""Bytes of data files that are opened: opening takes their digest, at about 1 GB a second."""


@dataclass(frozen=True)
class FirstRows:
    """What the first rows told. `json_answers`: whether any of their answers is JSON; None: not known."""

    problems: tuple[str, ...] = ()
    json_answers: bool | None = None


def look(config: PrepareConfig) -> FirstRows:
    """Why no row can be had from the source, as far as its files and its first rows tell.

    A dataset of the hub is asked for by the run itself, in its second step.
    """
    if config.source.startswith("hub:") or _size(config.source) > LARGEST:
        return FirstRows()
    try:
        chats, rejected = first_rows(config)
    except StageError as error:
        return FirstRows((f"prepare.source: {error}",))
    if rejected and not chats:
        why = f"prepare.source: none of the first {len(rejected)} rows can be used; {rejected[0]}"
        return FirstRows((why,))
    return FirstRows(json_answers=any(_is_json(chat[-1]["content"]) for chat in chats) if chats else None)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _size(source: str) -> int:
    """Bytes of what the source names; 0 where there is nothing, which opening it explains."""
    scheme, _, place = source.partition(":")
    if scheme == "path":
        path = Path(place).expanduser()
        files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    else:
        name, _, pattern = place.partition("/")
        try:
            listed = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            listed = []
        files = [Path(str(file.locate())) for file in listed if pattern and file.match(pattern)]
    return sum(file.stat().st_size for file in files if file.is_file())
