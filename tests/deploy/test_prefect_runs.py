"""What deploy/ declares for Prefect, started: server, UI, scheduler and a worker."""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from registry import Registry
from tests.seconds import seconds

PREFECT, TUNELINE = (str(Path(sys.executable).with_name(name)) for name in ("prefect", "tuneline"))
SECONDS = 240.0


@pytest.fixture(scope="module")
def server(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """The compose file's server on a free port of loopback, and the environment of who talks to it."""
    folder = tmp_path_factory.mktemp("prefect")
    service = yaml.safe_load((tree / "deploy" / "compose.yaml").read_text())["services"]["prefect"]
    declared = {**service["environment"], "PREFECT_HOME": str(folder), "TUNELINE_HOME": str(folder / "home")}
    declared["PREFECT_UI_STATIC_DIRECTORY"] = str(folder / "ui")
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        **declared, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_WORKER_QUERY_SECONDS": "1",
    }  # fmt: skip
    command = [PREFECT, *service["command"][:2], "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=seconds(20)
            ) as client:
                until(lambda: alive(client), process, folder / "server.log")
                yield client, environment
        finally:
            process.terminate()
            process.wait(seconds(60))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def alive(client: httpx.Client) -> bool:
    try:
        return client.get("/api/health").status_code == 200
    except httpx.TransportError:
        return False


def until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Prefect has to be asked: twice a second. A process that ended, or the limit, shows the log."""
    limit = time.monotonic() + SECONDS
    while not true():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
            raise AssertionError(f"it ended: {log.read_text()[-2000:]}")
        assert time.monotonic() < limit, log.read_text()[-2000:]


def test_the_ui_is_served_from_a_place_that_can_be_written(
    server: tuple[httpx.Client, dict[str, str]], tree: Path
) -> None:
    client, environment = server
    page = client.get("/dashboard", headers={"accept": "text/html"}, follow_redirects=True)
    assert page.status_code == 200
    assert "<html" in page.text.lower()
    assert list(Path(environment["PREFECT_UI_STATIC_DIRECTORY"]).rglob("index.html"))
    service = yaml.safe_load((tree / "deploy" / "compose.yaml").read_text())["services"]["prefect"]
    place = service["environment"]["PREFECT_UI_STATIC_DIRECTORY"]
    assert any(place.startswith(f"{mount}/") for mount in service["tmpfs"]), "the rest is read-only"


def test_a_schedule_is_a_deployment_whose_run_a_worker_does(
    server: tuple[httpx.Client, dict[str, str]], tree: Path, tmp_path: Path
) -> None:
    """From the command to two flow runs of a worker; the tenants have no data, so that both are short."""
    client, environment = server

    def tuneline(*arguments: str) -> None:
        command = [TUNELINE, *arguments]
        done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr.decode()
        assert b"Prefect" not in done.stderr, done.stderr.decode()

    def put(cron: str, *more: str) -> None:
        source = ("--set", "prepare.source=path:/nowhere/{tenant}.jsonl", "--share-devices", "--at-once", "2")
        tuneline(
            "schedule", "add", "nightly", "pico-tenant", "--cron", cron, "--tenants", "t-*", *source, *more
        )

    put("0 3 * * *")
    for name in "ab":
        tuneline("tenants", "add", f"t-{name}", f"{name}/prod")
    with Registry.open(Path(environment["TUNELINE_HOME"])) as registry:
        registry.occasions.ask("nightly", "manual", "for a test")
    (deployed,) = client.post("/api/deployments/filter", json={}).json()
    assert {one["schedule"].get("cron") for one in deployed["schedules"]} == {"0 3 * * *", None}
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [PREFECT, "worker", "start", "--pool", "tuneline", "--type", "process"],
            env=environment, stdout=output, stderr=output, cwd=tree,
        )  # fmt: skip
        try:
            until(lambda: bool(runs(client)), worker, log)
            first = runs(client)[0]
            assert first["auto_scheduled"]
            now = {"scheduled_time": datetime.now(UTC).isoformat()}
            due = {"state": {"type": "SCHEDULED", "state_details": now}, "force": True}
            client.post(f"/api/flow_runs/{first['id']}/set_state", json=due).raise_for_status()

            def ended() -> list[dict[str, Any]]:
                asked = [
                    one for one in runs(client) if not one["auto_scheduled"] and not is_further_look(one)
                ]
                own = [*asked, client.get(f"/api/flow_runs/{first['id']}").json()]
                over = [one for one in own if one["state_type"] in ("FAILED", "COMPLETED")]
                crashed = [one for one in own if one["state_type"] in ("CRASHED", "CANCELLED")]
                assert not crashed, log.read_text()[-3000:]
                return [one for one in over if one["deployment_id"] == deployed["id"]]

            until(lambda: len(ended()) == 2, worker, log)
            lanes = ended()
            looks = [one for one in runs(client) if is_further_look(one)]
        finally:
            worker.kill()  # it would first wait for what Prefect asks of it; nothing is asked any more
            worker.wait()
    assert sorted(one["parameters"].get("lane", False) for one in lanes) == [False, True]
    assert {one["state_name"] for one in lanes} <= {"Failed", "Nothing due"}
    assert looks, "while there was work, more looks waited, whatever became of those two"
    assert len(looks) <= 4
    with Registry.open(Path(environment["TUNELINE_HOME"])) as registry:
        came_to = {run.target: (run.state, run.note) for run in registry.scheduled_runs.history("nightly")}
    assert {target: state for target, (state, _) in came_to.items()} == {"t-a": "failed", "t-b": "failed"}
    assert all(f"/nowhere/{target}.jsonl" in note for target, (_, note) in came_to.items())
    tuneline("schedule", "pause", "nightly")
    assert client.get(f"/api/deployments/{deployed['id']}").json()["paused"]
    put("0 4 * * *", "--replace")
    again = client.get(f"/api/deployments/{deployed['id']}").json()
    assert {one["schedule"].get("cron") for one in again["schedules"]} == {"0 4 * * *", None}
    with Registry.open(Path(environment["TUNELINE_HOME"])) as registry:
        registry.schedules.pause("nightly", True, "by somebody without Prefect")
    tuneline("schedule", "run")
    assert client.get(f"/api/deployments/{deployed['id']}").json()["paused"], "whoever looks tells it"
    kept = client.get(f"/api/deployments/{deployed['id']}").json()["updated"]
    tuneline("schedule", "run")
    assert client.get(f"/api/deployments/{deployed['id']}").json()["updated"] == kept, "it knows by now"
    tuneline("schedule", "rm", "nightly")
    assert client.get(f"/api/deployments/{deployed['id']}").status_code == 404


class Letters(Message):
    """A mail server's letters, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.came: queue.Queue[EmailMessage] = queue.Queue()

    def handle_message(self, message: EmailMessage) -> None:
        self.came.put(message)


def test_a_webhook_is_an_e_mail_where_prefect_has_a_block_for_it(
    server: tuple[httpx.Client, dict[str, str]], tree: Path
) -> None:
    """The document's own lines make the block; the mail server is on loopback."""
    _, environment = server
    text = (tree / "docs" / "access.md").read_text()
    (made,) = re.findall(r"```python\n(from prefect_email[^`]*)```", text)
    letters = Letters()
    controller = Controller(letters, hostname="127.0.0.1", port=(port := free_port()))
    controller.start()
    try:
        made = made.replace("smtp.example.org", "127.0.0.1").replace("587", str(port))
        made = re.sub(r" *(username|password)=.*\n", "", made).replace("STARTTLS", "INSECURE")

        def run(*command: str, fails: bool = False) -> str:
            done = subprocess.run(
                command, env=environment, cwd=tree, capture_output=True, text=True, timeout=SECONDS
            )
            assert done.returncode == fails, done.stdout + done.stderr
            return done.stdout

        def add(block: str) -> str:
            added = run(TUNELINE, "webhooks", "add", block, "--events", "night", "--json")
            return str(json.loads(added)["webhook"]["id"])

        run(sys.executable, "-c", made)
        (block,) = re.findall(r'webhooks add "(prefect:\S+)"', text)
        run(TUNELINE, "webhooks", "test", add(block))
        letter = letters.came.get(timeout=seconds(60))
        assert (letter["Subject"], letter["To"]) == ("Tuneline: test", "team@example.org")
        assert "who: " in letter.get_payload()
        name, _, whom = block.partition("?")
        for wrong, says in ((f"{name}-of-nobody?{whom}", "of-nobody"), (name, "?to=ADDRESS")):
            told = run(TUNELINE, "webhooks", "test", add(wrong), "--json", fails=True)
            assert says in json.loads(told)["error"]
    finally:
        controller.stop()
    told = run(TUNELINE, "webhooks", "test", add(block), "--json", fails=True)
    assert "ConnectionRefusedError" in json.loads(told)["error"], "nobody answers there any more"
    environment = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
    told = run(TUNELINE, "webhooks", "test", add(block), "--json", fails=True)
    assert "PREFECT_API_URL" in json.loads(told)["error"]


def is_further_look(run: dict[str, Any]) -> bool:
    """Whether it was left in Prefect by a look or a lane that had work."""
    return str(run["idempotency_key"]).startswith("nightly ")


def runs(client: httpx.Client) -> list[dict[str, Any]]:
    found = client.post("/api/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"})
    found.raise_for_status()
    return list(found.json())
