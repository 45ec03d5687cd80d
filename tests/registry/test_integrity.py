"""What `verify` must find, at a reduced size; tests/reliability/integrity.py does all of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from registry import Artifact
from registry.store.store import Store
from tests.registry.backends import Backend
from tests.registry.servers import ObjectStore
from tests.reliability import integrity

GIVEN = argparse.Namespace(large=3000, random_bytes=5, seed=0)


def test_every_damage_is_found(home: Path) -> None:
    found = integrity.run(Backend(home), GIVEN)
    assert found["wrong"] == []
    assert found["found"] == found["damages"] > 100
    assert len(found["kinds"]) == 1 + 10 + 10 + 9


def test_every_damage_is_found_in_an_object_store(home: Path, s3_server: ObjectStore) -> None:
    client = s3_server.client()
    found = integrity.run(Backend(home, store_url=s3_server.fresh()), GIVEN, client)
    client.close()
    assert found["wrong"] == []
    assert found["found"] == found["damages"] > 100
    assert len(found["kinds"]) == 1 + 10 + 9 + 7


def test_a_verify_that_reads_too_little_would_be_caught(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "problems", lambda *_: [])
    found = integrity.run(Backend(home), GIVEN)
    assert found["found"] == 0
    assert len(found["wrong"]) == found["damages"]


@pytest.mark.parametrize("store", ["local", "s3"])
def test_whoever_asks_hears_how_far_it_is(
    home: Path, publish: Callable[..., Artifact], request: pytest.FixtureRequest, store: str
) -> None:
    server: Any = request.getfixturevalue("s3_server") if store == "s3" else None
    heard: list[int] = []
    with Backend(home, store_url=server.fresh() if server else None).open() as registry:
        made = publish(registry, "one", {"a.bin": bytes(3_000_000), "b.txt": b"second", "empty": b""})
        assert registry.verify(made.id, heard.append) == []
    assert sum(heard) == made.size == 3_000_006
    assert len(heard) > (2 if store == "local" else 1)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_the_command_ends_with_an_error(
    home: Path, publish: Callable[..., Artifact], request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: str,
) -> None:  # fmt: skip
    server: Any = request.getfixturevalue("s3_server") if store == "s3" else None
    backend = Backend(home, store_url=server.fresh() if server else None)
    with backend.open() as registry:
        made = publish(registry, "one", {"a.txt": b"first"})
    monkeypatch.setenv("TUNELINE_HOME", str(home))
    if backend.store_url:
        monkeypatch.setenv("TUNELINE_STORE_URL", backend.store_url)
    assert cli.main(["artifacts", "verify", made.id[:12]]) == 0
    with backend.open() as registry:
        registry.store.delete([made.manifest.files["a.txt"].sha256])
    capsys.readouterr()
    assert cli.main(["artifacts", "verify", made.id[:12], "--json"]) == 4
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("a.txt: missing: blob ")
