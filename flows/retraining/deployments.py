"""The schedules as Prefect deployments, made from the registry and never by hand, by plain requests.

Prefect wakes each at its cron triggers, and every quarter of an hour: for triggers that have to be looked at,
for what was asked for, for what waits for its hours, and for what a worker that was killed left behind.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from flows.errors import FlowError
from registry import Registry
from registry.artifacts import JsonObject, digest
from registry.schedules.definition import Cron
from registry.schedules.schedules import Schedule

log = logging.getLogger("tuneline.retrain")

FLOW = "retrain"
ENTRYPOINT = "flows.retraining.flow.retrain"
TAG = "tuneline-schedule"
POOL = "tuneline"
LOOK_SECONDS = 900.0
ANSWER_SECONDS = 10.0
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt, where Prefect answers 503."""


class PrefectUnreachable(FlowError):
    """The Prefect server does not answer, or not as expected."""


class _Client(httpx.Client):
    """Prefect answers 503 while another writer holds its database, and means that one may ask again.

    Not a transport of our own: with one, httpx goes through no proxy that the environment names.
    """

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        for pause in PAUSES:
            answer = super().send(request, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            answer.close()
            time.sleep(pause)
        return super().send(request, **options)


def server() -> str | None:
    """The address of the Prefect API that the environment names."""
    return os.environ.get("PREFECT_API_URL", "").rstrip("/") or None


def sync(schedules: Iterable[Schedule], address: str, pool: str | None = None) -> dict[str, list[str]]:
    """Make Prefect's deployments what the schedules say; which were `made` (or made anew) and `removed`.

    `pool`: the work pool of all of them; by default each stays in its own, and a new one goes to `POOL`.
    Raises `PrefectUnreachable`.
    """
    with _asking(address) as client:
        return _sync(client, list(schedules), pool)


def catch_up(registry: Registry) -> None:
    """Make the deployments that Prefect, if one is named, has not or not as their schedules are now.

    It was away as a schedule was changed, or whoever changed it was. Where it is away now too that is said in
    the log, and left to the next call. Nothing is removed: a schedule that is gone is harmless there, and
    nobody asked.
    """
    address = server()
    if address is None or not (schedules := registry.schedules.ls()):
        return  # units of a machine may name a server that nobody needs
    try:
        with _asking(address) as client:
            standing = _standing(client)
            known = {(deployment["name"], deployment["description"]) for deployment in standing}
            unknown = [s for s in schedules if (s.name, _described(s)) not in known]
            if unknown:
                log.info("Prefect is told of %s", ", ".join(_make(client, unknown, standing, None)))
    except PrefectUnreachable as error:
        log.warning("Prefect may not know each schedule: %s", error)


@contextmanager
def _asking(address: str) -> Iterator[httpx.Client]:
    """Its client; raises `PrefectUnreachable` for whatever is wrong with Prefect in the block."""
    secret = os.environ.get("PREFECT_API_AUTH_STRING")
    auth = httpx.BasicAuth(*secret.split(":", 1)) if secret and ":" in secret else None
    try:
        with _Client(base_url=address, timeout=ANSWER_SECONDS, auth=auth) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError, ValueError) as error:
        raise PrefectUnreachable(
            f"Prefect at {address} does not answer as expected ({type(error).__name__}: {error}); start it "
            "or correct PREFECT_API_URL; the next look, or `tuneline schedule sync`, tells it"
        ) from None


def _sync(client: httpx.Client, schedules: list[Schedule], pool: str | None) -> dict[str, list[str]]:
    standing = _standing(client)
    made = _make(client, schedules, standing, pool)
    gone = {deployment["name"]: deployment["id"] for deployment in standing if deployment["name"] not in made}
    for deployment_id in gone.values():
        client.delete(f"/deployments/{deployment_id}").raise_for_status()
    return {"made": sorted(made), "removed": sorted(gone)}


def _make(
    client: httpx.Client, schedules: list[Schedule], standing: list[JsonObject], pool: str | None
) -> list[str]:
    """Make, or make anew, the deployments of these; their names."""
    was_in = {deployment["name"]: deployment.get("work_pool_name") for deployment in standing}
    pools = {schedule.name: pool or was_in.get(schedule.name) or POOL for schedule in schedules}
    for name in sorted(set(pools.values())):
        if client.get(f"/work_pools/{name}").status_code == 404:
            client.post("/work_pools/", json={"name": name, "type": "process"}).raise_for_status()
    flow = client.post("/flows/", json={"name": FLOW}).raise_for_status().json()["id"]
    for schedule in schedules:
        document = deployment(schedule, flow, pools[schedule.name])
        client.post("/deployments/", json=document).raise_for_status()
    return list(pools)


def _standing(client: httpx.Client) -> list[JsonObject]:
    """All deployments of ours; Prefect tells of 200 at a time."""
    standing: list[JsonObject] = []
    while True:
        asked = {"deployments": {"tags": {"all_": [TAG]}}, "offset": len(standing)}
        page = client.post("/deployments/filter", json=asked).raise_for_status().json()
        if not isinstance(page, list):
            raise ValueError(f"expected a list of deployments, found {type(page).__name__}")
        standing += page
        if not page:
            return standing


def _looks(schedule: Schedule) -> list[Mapping[str, str | float]]:
    """When Prefect wakes it."""
    crons = [
        {"cron": trigger.at, "timezone": schedule.definition.zone}
        for trigger in schedule.definition.triggers
        if isinstance(trigger, Cron)
    ]
    return [*crons, {"interval": LOOK_SECONDS}]


def _described(schedule: Schedule) -> str:
    """Which schedule this is, as it is now; a registry that was restored gives the same numbers again."""
    fingerprint = digest([schedule.created.isoformat(), schedule.paused, _looks(schedule)])
    version = f"Version {schedule.version} ({fingerprint[:12]})"
    return f"{version} of the schedule in Tuneline's registry; change it there."


def deployment(schedule: Schedule, flow_id: str, pool: str) -> JsonObject:
    """What Prefect is told of a schedule; a deployment of that name is replaced by it."""
    return {
        "name": schedule.name,
        "flow_id": flow_id,
        "entrypoint": ENTRYPOINT,
        "work_pool_name": pool,
        "description": _described(schedule),
        "tags": [TAG],
        "version": str(schedule.version),
        "parameters": {"schedule": schedule.name},
        "schedules": [{"schedule": look, "active": True} for look in _looks(schedule)],
        "paused": schedule.paused,
    }
