"""What Prefect's workers run: a look at one schedule, and the runs that wait.

Prefect wakes it and shows it. What is due, who may run it and what came of it is in the registry, so a flow
run too many does no harm, and one that was lost only delays.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from flows.errors import FlowError
from flows.settings import Settings, quiet_libraries

quiet_libraries(Settings().root)

from prefect import flow  # noqa: E402  (Prefect reads its settings at import)
from prefect.context import FlowRunContext  # noqa: E402
from prefect.deployments import run_deployment  # noqa: E402
from prefect.states import Completed, State  # noqa: E402

from flows.retraining.deployments import FLOW  # noqa: E402
from flows.retraining.lane import Lane  # noqa: E402
from flows.retraining.look import look  # noqa: E402
from flows.retraining.night import tell_if_over  # noqa: E402
from flows.run.prefect_view import ParentFlow  # noqa: E402
from registry import Registry  # noqa: E402
from registry.schedules.schedules import Schedule  # noqa: E402

log = logging.getLogger("tuneline.retrain")


class RetrainFailed(FlowError):
    """At least one run ended with an error; the others ran."""


@flow(name=FLOW, persist_result=False)
def retrain(schedule: str, lane: bool = False) -> State[dict[str, str]]:
    """Look at the schedule and do what waits; with `lane`, only help with that.

    A gate that does not pass is a result (the channel stays where it is), not a failure; the flow run's state
    is named after it, and its result is target → how it ended. Raises `RetrainFailed` at the end if a run
    could not come to its gate.
    """
    settings = Settings()
    with Registry.open(
        settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
    ) as registry:
        if all(one.name != schedule for one in registry.schedules.ls()):
            # removed, or an upgrade that came to its end; Prefect forgets it at the next `sync`
            return Completed(name="Removed", message=f"there is no schedule {schedule} any more", data={})
        if not lane:
            look(registry, registry.schedules.get(schedule))
            _start_lanes(registry, registry.schedules.get(schedule))
            tell_if_over(registry, registry.schedules.get(schedule).definition.zone, datetime.now(UTC))
        ended = Lane(registry, settings, schedule, _parent(), log.warning).work()
    failed = [f"{run.target}: {end.note}" for run, end in ended if end.state == "failed"]
    if failed:
        raise RetrainFailed("; ".join(failed))
    message = "; ".join(f"{run.target}: {end.state}, {end.note}" for run, end in ended)
    refused = [run.target for run, end in ended if end.state == "refused"]
    name = f"No pass for {', '.join(refused)}" if refused else "Completed" if ended else "Nothing due"
    return Completed(name=name, message=message, data={run.target: end.state for run, end in ended})


def _start_lanes(registry: Registry, schedule: Schedule) -> None:
    """As many more flow runs as may work at once beside this one, for whichever workers are free."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    waiting = sum(run.state == "waiting" for run in registry.scheduled_runs.open(schedule.name))
    free = schedule.definition.limits.at_once - registry.scheduled_runs.running(schedule.name)
    for _ in range(min(waiting, free) - 1):
        try:
            run_deployment(
                f"{FLOW}/{schedule.name}",
                parameters={"schedule": schedule.name, "lane": True},
                timeout=0,
                as_subflow=False,
            )
        except Exception as error:  # others would only help: this lane does all that waits by itself
            log.warning("schedule %s: Prefect starts no further flow run: %s", schedule.name, error)
            return


def _parent() -> ParentFlow | None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    return ParentFlow(str(context.flow_run.id), str(context.client.api_url))
