"""What a test's registry is kept in: every combination of a database system and a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry import Registry

COMBINATIONS = ("sqlite-local", "postgresql-local", "sqlite-s3", "postgresql-s3")
"""What the conformance suite, that is every test with the fixture `registry` or `backend`, runs on."""


@dataclass(frozen=True)
class Backend:
    """A home, and the URLs of a database and a store that are not in it."""

    home: Path
    database_url: str | None = None
    store_url: str | None = None

    def open(self, **options: Any) -> Registry:
        """The registry there; made where there is none yet."""
        return Registry.open(self.home, self.database_url, self.store_url, **options)


Backends = Callable[[], Backend]
"""Makes a new one each time, all of one combination, gone after the test."""


def only(*words: str) -> pytest.MarkDecorator:
    """Marks a test that looks behind the registry's interface: it runs where all these words are true."""
    chosen = [one for one in COMBINATIONS if set(words) <= set(one.split("-"))]
    return pytest.mark.parametrize("combination", chosen, indirect=True)
