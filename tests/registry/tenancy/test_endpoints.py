from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from registry import Artifact, Endpoint, Registry
from registry.errors import NotFound
from registry.processes import ProcessId
from tests.registry.backends import only

pytestmark = only("local")  # rows only: where the files are makes no difference

Publish = Callable[..., Artifact]


def add(registry: Registry, artifact_id: str, **more: object) -> Endpoint:
    given = {"artifact_id": artifact_id, "engine": "llama.cpp", "url": "http://127.0.0.1:1"}
    given |= {"process": ProcessId.of(), "log": Path("logs/x.log"), **more}
    return registry.endpoints.add(**given)  # type: ignore[arg-type]


def test_an_endpoint_is_read_back_whole(registry: Registry, publish: Publish) -> None:
    artifact = publish(registry, "one")
    row = add(registry, artifact.id, channel="a/b", question="Q?", answer="A.", config={"port": 0})
    found = registry.endpoints.get(row.id)
    assert found == row
    assert (found.channel, found.question, found.answer, found.config) == ("a/b", "Q?", "A.", {"port": 0})
    assert (found.artifact_id, found.log, found.stopped) == (artifact.id, Path("logs/x.log"), None)
    assert found.process.is_alive(), "the start time survives the database exactly enough"
    assert len(found.id) == 8


def test_stopped_ones_are_kept_but_not_running(registry: Registry, publish: Publish) -> None:
    artifact = publish(registry, "one").id
    first, second = add(registry, artifact), add(registry, artifact)
    stopped = registry.endpoints.mark_stopped(first.id)
    assert stopped.stopped is not None
    assert registry.endpoints.mark_stopped(first.id) == stopped, "the first time counts"
    assert registry.endpoints.ls(running_only=True) == [second]
    assert registry.endpoints.ls() == [second, stopped]


def test_unknown_ones_are_refused(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no endpoint"):
        registry.endpoints.get("nope")
    with pytest.raises(NotFound, match="no endpoint"):
        registry.endpoints.mark_stopped("nope")
    with pytest.raises(NotFound, match="no artifact"):
        add(registry, "f" * 64)
