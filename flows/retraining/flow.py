"""What Prefect's workers run: a look at one schedule, and the runs that wait.

Prefect wakes it and shows it. What is due, who may run it and what came of it is in the registry, so a flow
run too many does no harm, and one that was lost only delays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flows.errors import FlowError
from flows.settings import Settings, quiet_libraries

quiet_libraries(Settings().root)

from prefect import flow  # noqa: E402  (Prefect reads its settings at import)
from prefect.context import FlowRunContext  # noqa: E402
from prefect.deployments import run_deployment  # noqa: E402
from prefect.states import Completed, State  # noqa: E402
from rich.console import Console  # noqa: E402

from flows.retraining import deployments  # noqa: E402
from flows.retraining.ceiling import over_ceiling  # noqa: E402
from flows.retraining.deployments import FLOW  # noqa: E402
from flows.retraining.lane import Lane, is_busy, ready  # noqa: E402
from flows.retraining.look import look  # noqa: E402
from flows.retraining.night import tell_if_over  # noqa: E402
from flows.run.prefect_view import ParentFlow  # noqa: E402
from flows.run.progress_view import StderrConsole  # noqa: E402
from registry import Registry  # noqa: E402
from registry.schedules.schedules import Schedule  # noqa: E402

log = logging.getLogger("tuneline.retrain")

AGAIN_SECONDS = 60.0
"""Between two looks while there is work."""


class RetrainFailed(FlowError):
    """At least one run ended with an error; the others ran."""


@flow(name=FLOW, persist_result=False)
def retrain(schedule: str, lane: bool = False) -> State[dict[str, str]]:
    """Look at the schedule and do what waits; with `lane`, only help with that.

    A gate that does not pass is a result (the channel stays where it is), not a failure; the flow run's state
    is named after it, and its result is target → how it ended. Raises `RetrainFailed` at the end if a run
    could not come to its gate.
    """
    outlive_worker()
    settings = Settings()
    with Registry.open(
        settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
    ) as registry:
        if all(known.name != schedule for known in registry.schedules.ls()):
            # removed, or an upgrade that came to its end; Prefect forgets it at the next `sync`
            return Completed(name="Removed", message=f"there is no schedule {schedule} any more", data={})
        standing = registry.schedules.get(schedule)
        if not lane:
            deployments.catch_up(registry)
            look(registry, standing, _moment())
            tell_if_over(registry, standing.definition.zone, datetime.now(UTC))
        this_lane = Lane(registry, settings, schedule, _parent(), log.warning)
        # it refuses settings with which no run can begin, before looks wait that could not mend them
        reached = over_ceiling(registry, standing, datetime.now(UTC), this_lane.rates)
        if not lane and reached is None:
            _start_lanes(registry, standing)
        _look_again(registry, standing)
        ended = this_lane.work()
    failed = [f"{run.target}: {end.note}" for run, end in ended if end.state == "failed"]
    if failed:
        raise RetrainFailed("; ".join(failed))
    message = "; ".join(f"{run.target}: {end.state}, {end.note}" for run, end in ended)
    refused = [run.target for run, end in ended if end.state == "refused"]
    name = f"No pass for {', '.join(refused)}" if refused else "Completed" if ended else "Nothing due"
    return Completed(name=name, message=message, data={run.target: end.state for run, end in ended})


def _look_again(registry: Registry, schedule: Schedule) -> None:
    """While there is work, have two looks more wait in Prefect, whatever becomes of this flow run.

    They are there before the work begins: what a killed process leaves behind is taken up as soon as a worker
    is free, not at the next quarter of an hour. Each makes its own successors, at most one a minute, and
    none once the work is done. Two, as one of them may be lost with the process that begins it.
    """
    now = time.time()
    if not _by_prefect() or not is_busy(registry, schedule, now + 4 * AGAIN_SECONDS):
        return
    turn = int(now // AGAIN_SECONDS)
    for number in (turn + 1, turn + 2):
        at = datetime.fromtimestamp(number * AGAIN_SECONDS, UTC)
        _wake(schedule, {}, scheduled_time=at, idempotency_key=f"{schedule.name} {number}")


def _start_lanes(registry: Registry, schedule: Schedule) -> None:
    """As many more flow runs as may work at once beside this one, for whichever workers are free."""
    if not _by_prefect():
        return
    waiting = len(ready(registry.scheduled_runs.open(schedule.name), schedule, time.time()))
    free = schedule.definition.limits.at_once - registry.scheduled_runs.running(schedule.name)
    for _ in range(min(waiting, free) - 1):
        if not _wake(schedule, {"lane": True}):
            return


def _wake(schedule: Schedule, parameters: Mapping[str, object], **when: Any) -> bool:
    """Another flow run of it; whether Prefect took it."""
    try:
        run_deployment(
            f"{FLOW}/{schedule.name}",
            parameters={"schedule": schedule.name, **parameters},
            timeout=0,
            as_subflow=False,
            **when,
        )
    except Exception as error:  # others would only help: this lane does all that waits by itself
        log.warning("schedule %s: Prefect starts no further flow run: %s", schedule.name, error)
        return False
    return True


def outlive_worker() -> None:
    """Go on where the worker is killed, which reads what this process prints: rich would end the process at
    its next line."""
    Console.on_broken_pipe = StderrConsole.on_broken_pipe  # type: ignore[method-assign, assignment]


def _by_prefect() -> bool:
    """Whether a worker of Prefect's runs this, from a deployment."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def _moment() -> datetime:
    """Now, or the time for which Prefect began this flow run: it rounds what is left until then to seconds,
    so that a look for three o'clock may begin half a second earlier."""
    context, now = FlowRunContext.get(), datetime.now(UTC)
    if context is None or context.flow_run is None or context.flow_run.expected_start_time is None:
        return now
    return max(now, context.flow_run.expected_start_time)


def _parent() -> ParentFlow | None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    return ParentFlow(str(context.flow_run.id), str(context.client.api_url))
