"""What Prefect is told of a schedule: as Prefect itself reads it, with an entrypoint that exists."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from flows.retraining import deployments
from flows.retraining.deployments import ENTRYPOINT, deployment
from registry import Registry
from registry.schedules.definition import Cron, Definition, NewRows
from registry.schedules.schedules import Schedule

DEFINITION = Definition(
    recipe_name="demo", recipe={}, channels=("a/b",), zone="Europe/Berlin",
    triggers=(Cron(at="0 3 * * *"), NewRows(count=5)),
)  # fmt: skip
NIGHTLY = Schedule(
    name="nightly", version=3, paused=True, has_token=False, created=datetime.now(UTC), definition=DEFINITION
)


def test_prefect_reads_what_it_is_told() -> None:
    from prefect.client.schemas.actions import DeploymentCreate

    told = deployment(NIGHTLY, str(uuid4()), "tuneline")
    read = DeploymentCreate.model_validate(told)
    assert set(told) <= set(DeploymentCreate.model_fields), "nothing that Prefect would overlook"
    cron, every = (one.schedule for one in read.schedules)
    assert (cron.cron, cron.timezone) == ("0 3 * * *", "Europe/Berlin")  # type: ignore[union-attr]
    assert every.interval.total_seconds() == 900  # type: ignore[union-attr]
    assert read.paused
    asked_only = DEFINITION.model_copy(update={"triggers": ()})
    quiet = deployment(NIGHTLY.model_copy(update={"definition": asked_only}), str(uuid4()), "tuneline")
    assert [one["schedule"] for one in quiet["schedules"]] == [{"interval": 900}], "for what is asked for"


def test_a_deployment_stays_in_its_pool_and_what_is_gone_is_found_among_many() -> None:
    """Prefect's answers are played: 201 deployments of ours, which it tells of 200 at a time."""
    old = [{"id": f"id-{n}", "name": f"old-{n:03}", "work_pool_name": "tuneline"} for n in range(200)]
    standing = [*old, {"id": "id-n", "name": "nightly", "work_pool_name": "gpus"}]
    made: dict[str, str] = {}
    deleted: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent = json.loads(request.content) if request.content else {}
        if request.method == "DELETE":
            deleted.append(request.url.path)
        elif request.url.path == "/deployments/filter":
            return httpx.Response(200, json=standing[sent["offset"] :][:200])
        elif request.url.path == "/deployments/":
            made[sent["name"]] = sent["work_pool_name"]
        return httpx.Response(200, json={"id": "one"})

    another = NIGHTLY.model_copy(update={"name": "another"})
    with httpx.Client(base_url="http://prefect", transport=httpx.MockTransport(answer)) as client:
        done = deployments._sync(client, [NIGHTLY, another], None)
        assert made == {"nightly": "gpus", "another": "tuneline"}
        assert (len(done["removed"]), len(deleted)) == (200, 200)
        deployments._sync(client, [NIGHTLY, another], "elsewhere")
        assert set(made.values()) == {"elsewhere"}


@pytest.mark.parametrize("refusals", [len(deployments.PAUSES), len(deployments.PAUSES) + 1])
def test_prefect_is_asked_again_while_its_database_is_held(
    refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server answers 503 then; one that never stops is said, with what to do."""
    monkeypatch.setattr(deployments, "PAUSES", (0.0,) * len(deployments.PAUSES))
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/filter"):
            return httpx.Response(200, json=[])
        if request.url.path.endswith("/deployments/"):
            bodies.append(request.content)
            if len(bodies) <= refusals:
                return httpx.Response(503, json={"exception_message": "Service Unavailable"})
        return httpx.Response(200, json={"id": "id"})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda self, request: answer(request))
    if refusals > len(deployments.PAUSES):
        with pytest.raises(deployments.PrefectUnreachable, match=r"503.*tuneline schedule sync"):
            deployments.sync([NIGHTLY], "http://prefect/api")
    else:
        assert deployments.sync([NIGHTLY], "http://prefect/api")["made"] == ["nightly"]
        assert set(bodies) == {bodies[0]}, "the same request"


def test_whoever_looks_tells_prefect_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was away as schedules were changed; where they are known nothing is written."""
    known: dict[str, dict[str, str]] = {"another's": {"id": "old", "name": "another's", "description": ""}}
    away, wrote = [True], []

    def answer(request: httpx.Request) -> httpx.Response:
        if away[0]:
            raise httpx.ConnectError("refused")
        sent = json.loads(request.content) if request.content else {}
        assert request.method != "DELETE", "nobody asked for that"
        if request.url.path.endswith("/filter"):
            return httpx.Response(200, json=list(known.values())[sent["offset"] :])
        if request.url.path.endswith("/deployments/"):
            wrote.append(sent["name"])
            kept = {key: sent[key] for key in ("name", "description")}
            known[sent["name"]] = {"id": sent["name"], **kept}
        return httpx.Response(200, json={"id": "id"})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda self, request: answer(request))
    with Registry.open(tmp_path / "home") as registry:
        registry.schedules.put("nightly", DEFINITION, "ada", replace=False)
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        deployments.catch_up(registry)
        assert "Prefect may not know each schedule" not in caplog.text, "none is named"
        monkeypatch.setenv("PREFECT_API_URL", "http://prefect/api")
        deployments.catch_up(registry)
        assert "Prefect may not know each schedule" in caplog.text
        away[0] = False
        for _ in range(2):
            deployments.catch_up(registry)
            assert (wrote, list(known)) == (["nightly"], ["another's", "nightly"])
        registry.schedules.pause("nightly", True, "ada")
        deployments.catch_up(registry)
        assert wrote == ["nightly"] * 2


def test_a_registry_that_was_restored_is_known_by_more_than_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next change has a number that Prefect was told before, of a schedule that was paused, say."""
    told: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent = json.loads(request.content) if request.content else {}
        if request.url.path.endswith("/filter"):
            found = [] if sent["offset"] else [{**one, "id": "id"} for one in told[-1:]]
            return httpx.Response(200, json=found)
        if request.url.path.endswith("/deployments/"):
            told.append(sent)
        return httpx.Response(200, json={"id": "id"})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda self, request: answer(request))
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect/api")
    for home, cron in (("before", "0 3 * * *"), ("restored", "0 4 * * *")):
        with Registry.open(tmp_path / home) as registry:
            definition = DEFINITION.model_copy(update={"triggers": (Cron(at=cron),)})
            registry.schedules.put("nightly", definition, "ada", replace=False)
            deployments.catch_up(registry)
            deployments.catch_up(registry)
            assert [one["version"] for one in told] == ["1"] * len(told)
            assert told[-1]["schedules"][0]["schedule"]["cron"] == cron  # type: ignore[index]
    assert len(told) == 2


@pytest.mark.parametrize("address", ["http://prefect:port/api", "http://prefect/other"])
def test_an_address_that_is_not_prefects_ends_nobody(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who serves the pages would look for no drift any more."""

    def answer(_: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"detail": "another service"})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    monkeypatch.setenv("PREFECT_API_URL", address)
    with Registry.open(tmp_path / "home") as registry:
        deployments.catch_up(registry)
        assert caplog.text == "", "without a schedule there is nothing to tell"
        registry.schedules.put("nightly", DEFINITION, "ada", replace=False)
        deployments.catch_up(registry)
    assert f"Prefect at {address} does not answer as expected" in caplog.text


def test_prefect_is_asked_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        thread = threading.Thread(target=proxy.handle_request, daemon=True)
        thread.start()
        with deployments._asking("http://prefect.invalid/api") as client:
            assert deployments._standing(client) == []
        thread.join()
    assert asked == ["http://prefect.invalid/api/deployments/filter"]


def test_the_entrypoint_takes_the_parameters() -> None:
    from prefect import Flow

    module, _, name = ENTRYPOINT.rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    told = deployment(NIGHTLY, str(uuid4()), "tuneline")["parameters"]
    inspect.signature(flow.fn).bind(**told)


def test_waking_a_schedule_that_is_over_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade whose last run another worker did: Prefect would wake it every quarter of an hour."""
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    module, _, name = ENTRYPOINT.rpartition(".")
    state = getattr(import_module(module), name).fn("upgrade-over")
    assert (state.name, state.is_completed()) == ("Removed", True)


def test_the_commands_in_the_comments_name_files_that_exist(tree: Path) -> None:
    for file in (tree / "deploy" / name for name in ("Dockerfile", "compose.yaml")):
        for line in re.findall(r"^#   (.+)$", file.read_text(), re.M):
            for word in shlex.split(line):
                if word.startswith("deploy/"):
                    assert (tree / word).exists(), f"{file.name}: {word}"
