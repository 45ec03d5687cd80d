"""Scheduled retraining: the same recipes again, on whatever their sources hold by then.

`deploy/prefect.yaml` schedules it. What did not change costs nothing: the registry knows it already.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flows.errors import FlowError
from flows.settings import Settings, quiet_libraries

quiet_libraries(Settings().root)

from prefect import flow  # noqa: E402  (Prefect reads its settings at import)
from prefect.context import FlowRunContext  # noqa: E402
from prefect.states import Completed, State  # noqa: E402

from flows.execute import EXPECTED, execute  # noqa: E402
from flows.recipe import load  # noqa: E402
from flows.run.prefect_view import ParentFlow  # noqa: E402

log = logging.getLogger("tuneline.retrain")


class RetrainFailed(FlowError):
    """At least one recipe ended with an error; the others ran."""


@flow(name="retrain", persist_result=False)
def retrain(recipes: list[str], overrides: list[str] | None = None) -> State[dict[str, str]]:
    """Run each recipe, one tenant's failure not stopping the next; returns recipe → how it ended.

    A gate that does not pass is a result (the channel stays where it is), not a failure; the flow run's
    state is named after it. Raises `RetrainFailed` at the end if a recipe could not be run to its gate.
    """
    ended = {recipe: _one(recipe, overrides or ()) for recipe in recipes}
    failed = [f"{recipe}: {how}" for recipe, how in ended.items() if how.startswith("error")]
    if failed:
        raise RetrainFailed("; ".join(failed))
    message = "; ".join(f"{recipe}: {how}" for recipe, how in ended.items())
    stayed = [recipe for recipe, how in ended.items() if not how.startswith(("gate: pass;", "no gate;"))]
    name = f"No pass for {', '.join(stayed)}" if stayed else "Completed"
    return Completed(name=name, message=message, data=ended)


def _one(recipe: str, overrides: Sequence[str]) -> str:
    try:
        result = execute(load(recipe, overrides), Settings(), _parent())
    except EXPECTED as error:
        return f"error: {error}"
    except Exception as error:  # a defect of ours in one recipe is no reason to leave the others alone
        log.exception("recipe %s", recipe)
        return f"error: {type(error).__name__}: {error} (a defect: its trace is in the log)"
    if isinstance(result.error, KeyboardInterrupt):
        raise result.error  # it was meant for the whole, not for this recipe
    if result.error is not None:
        return f"error: {result.error}"
    gate = f"gate: {result.report.gate['verdict']}" if result.report.gate else "no gate"
    return f"{gate}; report: {result.html}"


def _parent() -> ParentFlow | None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    return ParentFlow(str(context.flow_run.id), str(context.client.api_url))
