"""One gateway for what ill-meaning clients send; its engine is a process that writes down what it is asked.

All modules of this folder share it, so that the last of them can look at what the others left in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.gateway.hostile.sending import CONNECTIONS, RAW, SECONDS, ok
from tests.serving.gateway.raw_http import RecordingGateway, exchange, recording, request
from tests.serving.populated_registry import kept_registry


@pytest.fixture(scope="package")
def gateway(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RecordingGateway]:
    folder = tmp_path_factory.mktemp("hostile")
    populated = kept_registry(pytestconfig.rootpath, folder / "home", 3)
    seconds = dict.fromkeys(("header_seconds", "body_seconds", "write_seconds"), SECONDS)
    with recording(populated, folder, seconds | {"connections": CONNECTIONS}) as found:
        found.tenant("mine", populated.adapters[0].gguf)
        found.tenant("other", populated.adapters[1].gguf)
        yield found


@pytest.fixture(scope="package")
def key(gateway: RecordingGateway) -> str:
    return gateway.keys["mine"]


@pytest.fixture(autouse=True)
def still_answers(gateway: RecordingGateway, key: str) -> Iterator[None]:
    """Whatever a test did, the gateway answers right after it and holds nothing of it."""
    assert ok(exchange(gateway.address, request(RAW, key)))
    before = gateway.held()
    yield
    gateway.idle_as(before)
    assert ok(exchange(gateway.address, request(RAW, key)))
