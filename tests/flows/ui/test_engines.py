"""Engines of a gateway, with the numbers that the gateway gives of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from starlette.testclient import TestClient

from flows.ui.screens.engine_numbers import traffic
from registry import Artifact, Registry
from registry.processes import ProcessId
from registry.tenancy.endpoints import IN_GATEWAY, OPERATIONS, Endpoint

NUMBERS = """# TYPE tuneline_engine_completion_tokens counter
tuneline_engine_completion_tokens_total{engine="0-0"} 700
tuneline_engine_completion_tokens_total{engine="0-1"} 300
tuneline_engine_completion_tokens_total{engine="1-0"} 9000
# TYPE tuneline_engine_time_to_first_token_seconds histogram
tuneline_engine_time_to_first_token_seconds_bucket{engine="0-0",le="+Inf"} 2.0
tuneline_engine_time_to_first_token_seconds_count{engine="0-0"} 2.0
tuneline_engine_time_to_first_token_seconds_sum{engine="0-0"} 0.3
tuneline_engine_time_to_first_token_seconds_bucket{engine="0-1",le="+Inf"} 1.0
tuneline_engine_time_to_first_token_seconds_count{engine="0-1"} 1.0
tuneline_engine_time_to_first_token_seconds_sum{engine="0-1"} 0.3
# TYPE tuneline_engine_inter_token_seconds histogram
tuneline_engine_inter_token_seconds_bucket{engine="0-0",le="+Inf"} 2.0
tuneline_engine_inter_token_seconds_count{engine="0-0"} 2.0
tuneline_engine_inter_token_seconds_sum{engine="0-0"} 0.05
# TYPE tuneline_engine_up gauge
tuneline_engine_up{engine="0-0"} 1.0
tuneline_engine_up{engine="0-1"} 0.0
tuneline_engine_up{engine="1-0"} 1.0
# TYPE tuneline_engine_requests gauge
tuneline_engine_requests{engine="0-0"} 3.0
tuneline_engine_requests{engine="0-1"} 1.0
# TYPE tuneline_engine_expected_wait_seconds gauge
tuneline_engine_expected_wait_seconds{engine="0-0"} 0.5
tuneline_engine_expected_wait_seconds{engine="0-1"} 2.5
# TYPE tuneline_engine_adapters gauge
tuneline_engine_adapters{engine="0-0"} 4.0
tuneline_engine_adapters{engine="0-1"} 3.0
# TYPE tuneline_engine_adapter_slots gauge
tuneline_engine_adapter_slots{engine="0-0"} 8.0
tuneline_engine_adapter_slots{engine="0-1"} 8.0
# TYPE tuneline_engine_restarts counter
tuneline_engine_restarts_total{engine="0-0"} 0.0
tuneline_engine_restarts_total{engine="0-1"} 2.0
# EOF
"""


@contextmanager
def operations(text: str) -> Iterator[tuple[str, list[str]]]:
    """The address of what answers as a gateway's operations do, and the paths that were asked for."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def engine(registry: Registry, artifact: Artifact, section: int, url: str | None) -> Endpoint:
    return registry.endpoints.add(
        artifact_id=artifact.id,
        engine="llama.cpp",
        url=f"{IN_GATEWAY}{section}-0",
        process=ProcessId.of(),
        log="log",
        config=None if url is None else {OPERATIONS: url},
    )


@pytest.fixture
def artifact(made: dict[str, Artifact]) -> Artifact:
    return next(iter(made.values()))


def test_the_replicas_of_an_engine_are_counted_together(registry: Registry, artifact: Artifact) -> None:
    with operations(NUMBERS) as (url, asked):
        rows = [engine(registry, artifact, section, url) for section in (0, 1)]
        counted = traffic([*rows, engine(registry, artifact, 0, None)])
    assert asked == ["/metrics"], "a gateway is asked once, however many engines it has"
    first, second = (counted[row.id] for row in rows)
    assert (first.replicas, first.up, first.requests, first.expected_wait) == (2, 1, 4, 2.5)
    assert (first.adapters, first.slots, first.restarts, first.tokens) == (7, 16, 2, 1000)
    assert first.first_token == pytest.approx(0.2)
    assert first.tokens_per_second == pytest.approx(40)
    assert (second.tokens, second.first_token, second.tokens_per_second) == (9000, None, None)


def test_the_pages_show_them(registry: Registry, artifact: Artifact, client: TestClient) -> None:
    with operations(NUMBERS) as (url, _):
        row = engine(registry, artifact, 0, url)
        listed, shown = client.get("/engines").text, client.get(f"/engines/{row.id}").text
    for words in ("7 of 16", "200 ms", "wait 2.5 s", ">40<"):
        assert words in listed
    assert "tuneline_engine_restarts_total" in shown
    assert re.search(r"\b700\b", shown)
    assert not re.search(r"\b9,?000\b", shown), "another engine's"


@pytest.mark.parametrize("text", ["no metrics", ""])
def test_a_gateway_that_says_nothing_keeps_no_page_from_coming(
    registry: Registry, artifact: Artifact, client: TestClient, text: str
) -> None:
    with operations(text) as (url, _):
        row = engine(registry, artifact, 0, url)
        assert client.get("/engines").status_code == 200
        assert f"{url}/metrics does not answer" in client.get(f"/engines/{row.id}").text
    assert client.get("/engines").status_code == 200, "it is gone"
    assert "ConnectError" in client.get(f"/engines/{row.id}").text
