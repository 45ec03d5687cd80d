"""What stands around the artifacts of a registry once people use it: tenants, users, schedules, webhooks.

For pictures, on a copy of a home in which recipes have run; the artifacts in it stay as they were made.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flows.recipe import load
from flows.ui.alerts import Alert, UnderWay
from registry import Registry, Waiver
from registry.outbox import EVENTS
from registry.processes import ProcessId
from registry.schedules.occasions import Planned, due_at
from registry.schedules.runs import Ended
from registry.schedules.schedules import checked
from registry.tenancy.tenants import TenantLimits
from tests.flows.metrics.watched import answered

TENANTS = {"acme": TenantLimits(tokens_per_day=200_000, requests_per_minute=120), "globex": TenantLimits()}
NIGHT = (
    ("acme/prod", "promoted", "passed its gate and was promoted"),
    ("globex/prod", "refused", "its gate failed: 2.4 points worse on the held-out questions"),
    ("initech/prod", "skipped", "no new rows since its last run"),
)


def people_around(registry: Registry, channel: str) -> str:
    """Fill in what people and gateways leave; returns an admin's token. `channel` has a quantized model."""
    live = registry.channels.get(channel).artifact_id
    others = [one.id for one in registry.ls("quantized", 5) if one.id != live]
    for name, limits in TENANTS.items():
        registry.tenants.add(name, channel, "ada", limits)
    registry.endpoints.add(
        artifact_id=live, engine="llama.cpp", url="http://127.0.0.1:8081", process=ProcessId.of(),
        log="engine.log", channel=channel,
    )  # fmt: skip
    if others:
        registry.channels.move("acme/trial", others[0], 0, waiver=Waiver("to show it on Monday", "olga"))
        registry.rollouts.start(channel, others[0], 10.0, 0.0, "olga", "the smaller file, on real questions")
    minutes = [datetime.now(UTC) - timedelta(minutes=back) for back in range(1, 50, 7)]
    registry.outcomes.add([answered(channel, live, minute, requests=212, failed=1) for minute in minutes])
    a_night(registry)
    registry.webhooks.add("https://hooks.example.org/tuneline", EVENTS[:4], "ada")
    _, token = registry.users.add("ada", "admin", "ada")
    registry.users.add("olga", "operator", "ada")
    registry.users.add("vera", "viewer", "ada")
    return token


def a_night(registry: Registry) -> None:
    """A schedule with a night behind it."""
    targets = [target for target, _, _ in NIGHT]
    definition = checked(
        recipe_name="pico-tenant", recipe=load("pico-tenant").model_dump(mode="json"),
        channels=tuple(targets), triggers=({"on": "cron", "at": "0 3 * * *"},),
        limits={"per_device": False, "night_hours": 6},
    )  # fmt: skip
    registry.schedules.put("tenants", definition, "ada", replace=False)
    runs = [Planned(target=target, channel=target) for target in targets]
    due = datetime.now(UTC).replace(hour=3, minute=0, second=0, microsecond=0)
    if due > datetime.now(UTC):
        due -= timedelta(days=1)
    registry.occasions.plan(due_at("tenants", "cron", "it was time", due), 1, runs)
    came_to = {target: (state, note) for target, state, note in NIGHT}
    while claim := registry.scheduled_runs.claim("tenants", len(targets)):
        state, note = came_to[claim.run.target]
        registry.scheduled_runs.finish(claim, Ended(state=state, note=note, seconds=840.0))


def alert_under_way(registry: Registry, channel: str) -> None:
    """One that Alertmanager told of."""
    labels = {"alertname": "TunelineErrors", "channel": channel, "severity": "page"}
    said = {"summary": f"{channel}: 6.1 % of the last 5 minutes' requests failed"}
    began = datetime.now(UTC) - timedelta(minutes=12)
    UnderWay(registry.home).take([Alert("firing", labels, said, began.isoformat())])
