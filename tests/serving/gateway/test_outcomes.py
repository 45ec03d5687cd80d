"""What is counted of a request's end, and in which order a gateway writes it down."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving.gateway.metrics import Metrics
from serving.gateway.relay import TokenUsage
from serving.gateway.request_context import Completion, Recorder, RequestContext
from serving.gateway.rollout.decision import RoutingDecision
from serving.gateway.rollout.outcomes import OutcomeRecorder, RequestOutcome


@pytest.mark.parametrize(
    ("begun", "status", "reason", "counted"),
    [
        (True, 200, None, [False]),
        (True, 503, "unavailable", [True]),  # the engine ended between its headers and its answer
        (True, 200, "internal", [True]),  # the gateway failed in the middle of a stream
        (True, 499, "client_gone", []),
        (False, 503, "unavailable", [True]),
        (False, 429, "overloaded", []),
    ],
)
def test_an_answer_that_the_client_did_not_get_is_a_failed_one(
    begun: bool, status: int, reason: str | None, counted: list[bool]
) -> None:
    kept: list[RequestOutcome] = []
    recorder = Recorder(Metrics(tenants=1), cast(Any, SimpleNamespace(add=kept.append)), cast(Any, None))
    tenant = cast(Any, SimpleNamespace(name="acme", channel="team/acme"))
    usage = TokenUsage(cast(Any, SimpleNamespace(stream=False)), begun=begun)
    context = RequestContext(
        cast(Any, SimpleNamespace(method="POST", raw_path="/v1/chat/completions", headers={})),
        tenant=tenant,
        completion=Completion(tenant, RoutingDecision("a" * 64, "canary"), 1, usage),
        status=status,
        reason=reason,
    )
    with recorder.recording(context):
        pass
    assert [outcome.failed for outcome in kept] == counted


def test_the_live_artifacts_answers_are_written_before_those_of_a_canary() -> None:
    written: list[Any] = []
    registry = cast(Any, SimpleNamespace(outcomes=SimpleNamespace(add=written.extend)))
    outcomes = OutcomeRecorder(registry)
    for channel, arm in (("team/a", "canary"), ("team/a", "live"), ("team/b", "canary"), ("team/b", "live")):
        of = (channel, 1, ("c" if arm == "canary" else "1") * 64, cast(Any, arm))
        outcomes.add(RequestOutcome(*of, False, "stop", 1, 1, 0.1, None))
    asyncio.run(outcomes.stop())
    assert [(row.channel, row.arm) for row in written] == [
        ("team/a", "live"), ("team/b", "live"), ("team/a", "canary"), ("team/b", "canary")
    ]  # fmt: skip
