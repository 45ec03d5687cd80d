"""Rows for a feed over HTTP: from an operator's token, all or none."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows.ui.access.access import Access
from flows.ui.app import application
from flows.ui.feeds import MOST_BYTES
from registry import Registry
from registry.feeds.rows import chat
from tests.flows.ui.access.attempts import HOST
from tests.flows.ui.browser import served
from tests.seconds import seconds


@pytest.fixture
def browser(registry: Registry) -> Iterator[TestClient]:
    with TestClient(application(registry, Access(registry)), HOST, follow_redirects=False) as client:
        yield client


def row(question: str) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "<b>yes</b>"}]
    return {"messages": turns}


def test_rows_come_by_an_operators_token(registry: Registry, browser: TestClient) -> None:
    _, token = registry.users.add("robot", "operator", "test")
    _, weak = registry.users.add("looker", "viewer", "test")
    header = {"Authorization": f"Bearer {token}"}
    body = "".join(json.dumps(row(question)) + "\n" for question in ("a", "<script>", "a")).encode()
    assert browser.post("/feeds/tickets/rows", content=body).status_code == 401
    other = browser.post("/feeds/tickets/rows", content=body, headers={"Authorization": f"Bearer {weak}"})
    assert (other.status_code, other.json()["status"]) == (403, 403)
    for new, known in ((2, 1), (0, 3)):
        answer = browser.post("/feeds/tickets/rows", content=body, headers=header)
        assert answer.json() == {
            "feed": "tickets",
            "new": new,
            "known": known,
            "forgotten": 0,
            "watermark": 2,
        }
    rows = registry.feeds.rows("tickets")
    assert [(one.who, one.origin) for one in rows] == [("robot", "http")] * 2
    assert rows[1].content == row("<script>"), "as data"
    good = json.dumps(row("b")).encode()
    bad = [b"", b"\n", good + b"\n{", good + b"\n{}", b"[]", b"\xff", b"[" * 100_000, good + b"\n1"]
    bad += [json.dumps({**row("c"), "tenant": "acme"}).encode()]
    for content in bad:
        refused = browser.post("/feeds/tickets/rows", content=content, headers=header)
        assert refused.status_code == 422, content[:40]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["detail"].endswith(("nothing was added", "not UTF-8"))
    assert browser.post("/feeds/Tickets/rows", content=good, headers=header).status_code == 422
    assert (
        browser.post("/feeds/tickets/rows", content=b" " * (MOST_BYTES + 1), headers=header).status_code
        == 413
    )
    assert registry.feeds.get("tickets").rows == 2


def test_a_text_may_hold_what_ends_a_line_elsewhere(registry: Registry, browser: TestClient) -> None:
    _, token = registry.users.add("robot", "operator", "test")
    odd = row("a\u2028b\u0085c\x7fd\u2029")
    body = "\r\n".join(json.dumps(one, ensure_ascii=False) for one in (odd, row("b"))).encode()
    answer = browser.post("/feeds/tickets/rows", content=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    assert registry.feeds.rows("tickets")[0].content == odd
    assert answer.json()["new"] == 2


def test_the_documents_curl_adds_rows(
    registry: Registry, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    _, token = registry.users.add("robot", "operator", "test")
    there = [row(question)["messages"] for question in "abcd"]
    registry.feeds.add("tickets", [chat(messages, "here", "http") for messages in there], "test")
    lines = (json.dumps(row(question)) + "\n" for question in "def")
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    page = (pytestconfig.rootpath / "docs" / "feeds.md").read_text("utf-8")
    ((command, shown),) = re.findall(r"^\$ (curl .*\$TOKEN.*)\n(\{.*)$", page, re.MULTILINE)
    with served(application(registry, Access(registry))) as url:
        done = subprocess.run(
            ["bash", "-c", command.replace("https://tuneline.example.org", url)],
            env={**os.environ, "TOKEN": token}, cwd=tmp_path, capture_output=True, text=True,
            timeout=seconds(20),
        )  # fmt: skip
    assert json.loads(done.stdout) == json.loads(shown), done.stderr
