"""A judge on loopback: real HTTP, and a function in the place of a model."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[str], Any]
"""Message to the judge → its verdict; a text is the whole reply, an `Answer` the HTTP answer."""


@dataclass(frozen=True)
class Answer:
    """An answer as it goes over the wire."""

    status: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeJudge:
    """`url` is what a recipe has; `bodies` and `headers` are of the requests that came."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


@contextlib.contextmanager
def fake_judge(reply: Reply) -> Iterator[FakeJudge]:
    """Answers on a free port for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.path == "/v1/chat/completions"
            judge.bodies.append(body)
            judge.headers.append({name.lower(): value for name, value in self.headers.items()})
            self._send(as_answer(reply(body["messages"][0]["content"])))

        def _send(self, answer: Answer) -> None:
            text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            raw = text.encode()
            self.send_response(answer.status)
            for name, value in {**answer.headers, "content-length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Nothing: the test's output is for pytest."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        judge = FakeJudge(f"http://127.0.0.1:{server.server_address[1]}/v1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield judge
        finally:
            server.shutdown()
            thread.join()


def as_answer(reply: Any) -> Answer:
    """What an endpoint with OpenAI's API sends for it."""
    if isinstance(reply, Answer):
        return reply
    content = reply if isinstance(reply, str) and reply.startswith("{") else json.dumps({"verdict": reply})
    return Answer(200, {"choices": [{"message": {"role": "assistant", "content": content}}]})


def shown(message: str, called: str) -> str:
    """The text that stands between the marks of `called`, as a careful reader finds it."""
    mark = message.partition("lines that begin with ")[2].split(". ")[0]
    begin, end = f"{mark} {called} begins\n", f"\n{mark} {called} ends"
    assert message.count(begin) == message.count(end) == 1
    return message.partition(begin)[2].partition(end)[0]
