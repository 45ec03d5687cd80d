"""A registry with something of everything, and the pages over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.ui.access.access import Access
from flows.ui.app import application
from registry import Artifact, Registry
from tests.flows.metrics.watched import populate


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as registry:
        yield registry


@pytest.fixture
def made(registry: Registry) -> dict[str, Artifact]:
    """The registry is not empty: these are its artifacts."""
    return populate(registry)


@pytest.fixture
def client(registry: Registry) -> Iterator[TestClient]:
    app = application(registry, Access(registry, link_token="the link"))
    with TestClient(app, "http://localhost", follow_redirects=False) as client:
        assert client.get("/signin/link", params={"token": "the link"}).status_code == 303
        yield client
