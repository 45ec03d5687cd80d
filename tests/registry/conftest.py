from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry import Artifact, Registry
from registry.artifacts import BaseReference, QuantSpec, StageResult, memo_key
from registry.catalog import ResourceUse
from tests.registry import servers
from tests.registry.backends import COMBINATIONS, Backend, Backends

USE = ResourceUse(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), seconds=1.5, peak_bytes=1000)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[servers.PostgreSQL]:
    with servers.postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgresql: servers.PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database that holds an empty registry; a copy of it is made faster than a new one."""
    url = postgresql.fresh()
    Registry.open(tmp_path_factory.mktemp("template"), url).close()
    return servers.name_of(url)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.ObjectStore]:
    with servers.object_store(tmp_path_factory.mktemp("object-store")) as server:
        yield server


@pytest.fixture
def s3_server(object_store: servers.ObjectStore, monkeypatch: pytest.MonkeyPatch) -> servers.ObjectStore:
    """The S3 server, with credentials for it in the environment."""
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture(params=COMBINATIONS)
def combination(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_backend(combination: str, home: Path, request: pytest.FixtureRequest) -> Iterator[Backends]:
    database, store = combination.split("-")
    count = 0
    with ExitStack() as stack:

        def make() -> Backend:
            nonlocal count
            count += 1
            where = home if count == 1 else home.with_name(f"home-{count}")
            store_url = request.getfixturevalue("s3_server").fresh() if store == "s3" else None
            if database == "sqlite":
                return Backend(where, store_url=store_url)
            server: servers.PostgreSQL = request.getfixturevalue("postgresql")
            url = server.fresh(request.getfixturevalue("template"))
            stack.callback(server.drop, url)
            return Backend(where, url, store_url)

        yield make


@pytest.fixture
def backend(new_backend: Backends) -> Backend:
    return new_backend()


@pytest.fixture
def registry(backend: Backend) -> Iterator[Registry]:
    with backend.open() as opened:
        yield opened


@pytest.fixture
def key() -> Callable[[str], str]:
    return lambda text: memo_key("prepare", 1, {"text": text}, {}, {})


@pytest.fixture
def base() -> BaseReference:
    return BaseReference(
        source="hub:acme/tiny",
        revision="a" * 40,
        weights_digest=hashlib.sha256(b"weights").hexdigest(),
        tokenizer_digest=hashlib.sha256(b"tokenizer").hexdigest(),
        tokenizer_length=100,
        embedding_rows=128,
        chat_template_digest=hashlib.sha256(b"template").hexdigest(),
        architecture="LlamaForCausalLM",
    )


Commit = tuple[StageResult, ResourceUse]


@pytest.fixture
def facts() -> Callable[..., Commit]:
    """The arguments of a commit."""

    def make(use: ResourceUse = USE, **changes: Any) -> Commit:
        return StageResult(**{"kind": "dataset", "stage": "prepare", "stage_version": 1, **changes}), use

    return make


@pytest.fixture
def publish(facts: Callable[..., Commit], key: Callable[[str], str]) -> Callable[..., Artifact]:
    """Publish an artifact with these files under the memo key of `text`."""

    def make(
        registry: Registry, text: str, files: Mapping[str, bytes] | None = None, **changes: Any
    ) -> Artifact:
        with registry.draft(key(text), "prepare") as draft:
            for name, content in (files or {"text.txt": text.encode()}).items():
                path = draft.path / name
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True)
                path.write_bytes(content)
            return draft.commit(*facts(**changes))

    return make


@pytest.fixture
def plain() -> QuantSpec:
    return QuantSpec(method="none")
