"""The whole system on this machine, from nothing; every part killed in turn, a request answered after it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from flows.stack import databases
from flows.stack.programs import JUDGE_ALIVE, Places, Program
from flows.stack.supervise import StackSupervisor
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import until

pytestmark = pytest.mark.deploy
FIRST_PORT = 8760
NAMES = [
    *("postgresql", "s3", "prefect", "worker", "api", "ui", "metrics"),
    *("gateway", "judge", "prometheus", "alertmanager"),
]


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    # pytest's own folders are closed to the user that PostgreSQL runs as where root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="tuneline-stack-"))
    folder.chmod(0o711)
    places = Places(folder / "stack", FIRST_PORT)
    stack("up", places)
    yield places
    assert "does not run" in stack("down", places)
    assert not any(str(places.folder) in " ".join(process.info["cmdline"] or ()) for process in processes())
    shutil.rmtree(folder)


def processes() -> Iterator[psutil.Process]:
    return psutil.process_iter(["cmdline"])


def stack(what: str, places: Places) -> str:
    command = [sys.executable, "-m", "flows.stack", what, "--folder", str(places.folder)]
    command += ["--first-port", str(places.first_port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(600))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def parts(places: Places) -> list[Program]:
    return databases.parts(places)


def answered(places: Places) -> str:
    """What the tenant's model says, through the gateway."""
    key = (places.folder / "tenant-key").read_text().strip()
    answer = httpx.post(
        f"http://127.0.0.1:{places.port('gateway')}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": "pico/tenant", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
        timeout=seconds(60),
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def diagnosis(places: Places) -> dict[str, dict[str, str]]:
    """Subject → finding, as `tuneline doctor` reports them."""
    environment = {**os.environ, **databases.environment(places)}
    command = [sys.executable, "-m", "flows.cli", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds(120))
    return {check["subject"]: check for check in json.loads(done.stdout)["checks"]}


def test_all_parts_are_well_and_doctor_says_so(places: Places) -> None:
    lines = [line.split() for line in stack("status", places).splitlines()]
    assert [(state, name) for state, name, *_ in lines] == [("ok", name) for name in NAMES]
    checks = diagnosis(places)
    assert [subject for subject in checks if subject.startswith("stack.")] == [f"stack.{n}" for n in NAMES]
    green = ["registry", "store", "prefect", *(f"stack.{name}" for name in NAMES)]
    assert {subject: checks[subject]["state"] for subject in green} == dict.fromkeys(green, "ok")


@pytest.mark.parametrize("name", ["ui", "judge"])
def test_doctor_names_the_part_that_does_not_answer(places: Places, parts: list[Program], name: str) -> None:
    pid = StackSupervisor(places).standing(next(part for part in parts if part.name == name)).pid
    process = psutil.Process(pid)
    process.suspend()
    try:
        if name == "judge":
            os.utime(places.home / JUDGE_ALIVE, (0, 0))  # as if it had hung for long
        checks = diagnosis(places)
    finally:
        process.resume()
    failed = [subject for subject, check in checks.items() if check["state"] == "fail"]
    assert failed == [f"stack.{name}"]
    assert "does not answer" in checks[f"stack.{name}"]["found"]
    assert checks[f"stack.{name}"]["remedy"].endswith(f"logs/{name}.log")


def test_a_tenant_is_answered(places: Places) -> None:
    answered(places)


@pytest.mark.parametrize("name", NAMES)
def test_it_outlives_the_end_of_any_part(places: Places, parts: list[Program], name: str) -> None:
    supervisor, part = StackSupervisor(places), next(part for part in parts if part.name == name)
    before = supervisor.standing(part).pid
    process = psutil.Process(before)
    process.kill()
    process.wait(seconds(20))
    supervisor.wait(part, seconds(120))
    assert supervisor.standing(part).pid != before
    for other in parts:
        supervisor.wait(other, seconds(120))
    answered(places)


def test_up_again_changes_nothing(places: Places, parts: list[Program]) -> None:
    supervisor = StackSupervisor(places)
    before = [supervisor.standing(part).pid for part in parts]
    stack("up", places)
    assert [supervisor.standing(part).pid for part in parts] == before


def test_prometheus_scrapes_the_gateway_and_the_registry(places: Places) -> None:
    """Within a scrape or two: the gateway may have been killed a second ago."""
    address = f"http://127.0.0.1:{places.port('prometheus')}/api/v1/query"

    def reached() -> dict[str, str]:
        answer = httpx.get(address, params={"query": "up"}).raise_for_status()
        return {one["metric"]["job"]: one["value"][1] for one in answer.json()["data"]["result"]}

    both = {"tuneline": "1", "tuneline-registry": "1"}
    until(lambda: reached() == both, "both are reached", seconds(60))


def test_an_alert_comes_to_the_fleet_page(places: Places) -> None:
    """The latest run of a recipe was killed; rules, Alertmanager and pages do the rest."""
    environment = {**os.environ, **databases.environment(places)}
    command = [sys.executable, "-m", "flows.cli", "run", "pico-tenant", "--set", "name=killed"]
    runs = places.home / "runs"
    before = len(list(runs.iterdir()))
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as run:
        until(lambda: len(list(runs.iterdir())) > before, "the run is recorded", seconds(120))
        process = psutil.Process(run.pid)
        for one in [*process.children(recursive=True), process]:
            one.kill()
    fleet, token = f"http://127.0.0.1:{places.port('ui')}/", (places.folder / "admin-token").read_text()
    header = {"Authorization": f"Bearer {token.strip()}"}
    told = "the latest run of killed ended as killed"
    until(
        lambda: told in httpx.get(fleet, headers=header).raise_for_status().text, "it is shown", seconds(120)
    )


def test_its_secrets_are_its_owners(places: Places) -> None:
    tokens = (places.alertmanager_token, places.folder / "admin-token", places.folder / "tenant-key")
    for path in (*tokens, places.secrets, places.folder / "supervisord.conf"):
        assert Path(path).stat().st_mode & 0o077 == 0, path
