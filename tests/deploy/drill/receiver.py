"""Takes what Alertmanager and Tuneline's webhooks send, and knows when each alert fired and was resolved."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Notice = tuple[str, str]
"""An alert's name, and firing or resolved."""


class Seen(NamedTuple):
    """When (monotonic seconds), and of which series."""

    at: float
    labels: dict[str, str]


class Receiver:
    """Waits for notices; `secret` is what Tuneline's webhook signs with."""

    def __init__(self) -> None:
        self.url = ""
        self.secret = ""
        self._news = threading.Condition()
        self._direct: dict[Notice, list[Seen]] = {}
        self.told: set[Notice] = set()
        """What came through Tuneline's pages and webhooks."""

    def wait(self, alert: str, status: str, about: Mapping[str, str], since: float, limit: float) -> float:
        """When Alertmanager first sent such a notice after `since`, with these labels."""
        end = time.monotonic() + limit
        with self._news:
            while True:
                for seen in self._direct.get((alert, status), ()):
                    if seen.at >= since and about.items() <= seen.labels.items():
                        return seen.at
                left = end - time.monotonic()
                assert left > 0, f"{alert} was not {status} within {limit:.0f} s"
                self._news.wait(left)

    def wait_told(self, notices: set[Notice], limit: float) -> None:
        """Until all of these came through Tuneline too."""
        with self._news:
            assert self._news.wait_for(lambda: notices <= self.told, limit), notices - self.told

    def take(self, path: str, body: bytes, signature: str) -> int:
        """What arrived; returns the HTTP status of the answer."""
        document, at = json.loads(body), time.monotonic()
        with self._news:
            if path == "/alertmanager":
                for alert in document["alerts"]:
                    notice = (alert["labels"]["alertname"], alert["status"])
                    self._direct.setdefault(notice, []).append(Seen(at, alert["labels"]))
            else:
                if not self._is_ours(signature, body):
                    return 403
                about = document["about"]
                self.told.add((about["labels"]["alertname"], about["status"]))
            self._news.notify_all()
        return 200

    def _is_ours(self, signature: str, body: bytes) -> bool:
        parts = dict(part.split("=") for part in signature.split(","))
        mac = hmac.new(self.secret.encode(), parts["t"].encode() + b"." + body, "sha256").hexdigest()
        return hmac.compare_digest(mac, parts["v1"])


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens on loopback."""
    receiver = Receiver()

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.take(self.path, body, self.headers.get("Tuneline-Signature", ""))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Post) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
