"""`tuneline users` and `tuneline webhooks`."""

from __future__ import annotations

import getpass
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.commands.arguments import access
from registry import Registry
from registry.access.users import ROLES
from registry.outbox import EVENTS
from tests.flows.commands.conftest import Run, Say
from tests.seconds import seconds

TOKEN = re.compile(r"tlu-[0-9a-f]{12}-[A-Za-z0-9_-]{43}")


def test_the_arguments_know_what_the_registry_knows() -> None:
    assert (access.ROLES, access.EVENTS) == (ROLES, EVENTS)


def test_users(say: Say, run: Run, home: Path) -> None:
    code, out, err = say("users", "add", "ada", "--role", "admin")
    assert (code, "making a new registry" in err) == (0, True)
    match = TOKEN.search(out)
    assert match is not None
    with Registry.open(home) as registry:
        user = registry.users.of_token(match[0])
    assert user is not None
    assert (user.name, user.role) == ("ada", "admin")
    code, added = run("users", "add", "vera")
    assert (code, added["user"]["role"], bool(TOKEN.fullmatch(added["token"]))) == (0, "viewer", True)
    code, out, _ = say("users")
    assert (code, match[0] in out, "ada" in out, "vera" in out) == (0, False, True, True)
    code, vera = run("users", "role", "vera", "operator")
    assert (code, vera["name"], vera["role"]) == (0, "vera", "operator")
    assert run("users", "revoke", "ada") == (0, {"user": "ada", "revoked": True})
    assert run("users", "revoke", "ada") == (0, {"user": "ada", "revoked": False})
    assert [user["revoked"] is None for user in run("users", "ls")[1]] == [False, True]
    code, events = run("users", "audit")
    assert [(event["subject"], event["action"]) for event in events] == [
        ("user ada", "add"),
        ("user vera", "add"),
        ("user vera", "role"),
        ("user ada", "revoke"),
    ]
    assert {event["who"] for event in events} == {getpass.getuser()}


def test_what_users_refuses(say: Say) -> None:
    code, _, err = say("users", "ls")
    assert (code, "there is no registry" in err) == (3, True)
    assert say("users", "add", "ada")[0] == 0
    for words, says in (
        (("add", "ada"), "exists"),
        (("add", "a b"), "valid user name"),
        (("add", "bob", "--role", "owner"), "invalid choice"),
        (("add", "bob", "--who", ""), "empty"),
        (("revoke", "bob"), "users ls"),
        (("role", "bob", "admin"), "users ls"),
        (("role", "ada", "owner"), "invalid choice"),
    ):
        code, _, err = say("users", *words)
        assert (code, says in err) == (3, True), err


class _Answers(BaseHTTPRequestHandler):
    status = 204

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def receiver() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


def test_webhooks(say: Say, run: Run, receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = say("webhooks", "add", receiver)
    assert (code, "--allow-private" in err) == (3, True)
    code, added = run("webhooks", "add", receiver, "--events", "gate", "promotion", "--allow-private")
    webhook, secret = added["webhook"], added["secret"]
    assert (code, webhook["events"]) == (0, ["promotion", "gate"])
    code, delivery = run("webhooks", "test", webhook["id"])
    assert (code, delivery["state"], delivery["answer"]) == (0, "delivered", 204)
    monkeypatch.setattr(_Answers, "status", 500)
    code, delivery = run("webhooks", "test", webhook["id"])
    assert (code, delivery["state"], delivery["answer"]) == (1, "waiting", 500)
    for command in (("webhooks",), ("webhooks", "deliveries")):
        code, out, _ = say(*command)
        assert (code, webhook["id"] in out, secret in out) == (0, True, False)
    assert run("webhooks", "deliver", "--once") == (0, {"attempted": 0})
    assert run("webhooks", "rm", webhook["id"])[0] == 0
    assert run("webhooks", "ls") == (0, [])
    code, _, err = say("webhooks", "rm", webhook["id"])
    assert (code, "was removed" in err) == (3, True)


def test_deliver_goes_on_until_a_signal(home: Path, receiver: str) -> None:
    with Registry.open(home) as registry:
        webhook, _ = registry.webhooks.add(receiver, ["gate"], "test", private=True)
        registry.webhooks.test(webhook.id, "test")
        command = [sys.executable, "-m", "flows.cli", "webhooks", "deliver"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait = threading.Event()
            for _ in range(int(seconds(200))):
                if registry.webhooks.deliveries()[0].state == "delivered":
                    break
                wait.wait(0.1)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=seconds(20))
        assert (process.returncode, err) == (0, "")
        assert registry.webhooks.deliveries()[0].state == "delivered"
