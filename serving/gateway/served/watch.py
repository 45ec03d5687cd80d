"""Asks engines, while they serve, what their artifacts were asked when they were evaluated.

A question goes to a random engine, in the name of a random adapter that is loaded there (or of the engine's
own model), as a tenant's request would: through the gateway's reading of requests, the engine's queue and the
adapter's slot. It is no tenant's: it costs no budget, and stands in no outcome and no traffic. After an
answer otherwise, every second of the next few questions goes to the same model: a fault is known sooner, and
the load is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
import uuid
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import aiohttp

from registry import Registry
from registry.errors import RegistryError
from serving.engine.answer_check import ExpectedAnswer, as_recorded, recorded_answers
from serving.errors import ServingError
from serving.gateway.config import ServedSection
from serving.gateway.metrics import Metrics
from serving.gateway.relay import TokenUsage
from serving.gateway.replica import Replica
from serving.gateway.request_policy import read
from serving.gateway.router import Router
from serving.gateway.served.evidence import CERTAIN, AnswerEvidence
from serving.openai_api.errors import ApiError
from serving.openai_api.request import RequestLimits
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")

QUESTIONS = 32
"""Recorded questions of one artifact at most, each as likely as the others."""
TOKENS = 16
"""Of an answer. At a start fewer are compared, by all or nothing; here some may differ by rounding."""
ANSWER_SECONDS = 60.0
"""Then there is no answer."""
DOUBTS = 12
"""So many questions after an answer otherwise, every second goes to the same model."""
LOOK_AGAIN = 900.0
"""Seconds after which a model without recorded answers is looked up again: it may have been evaluated since,
or the registry was away."""

Result = Literal["as recorded", "otherwise", "unanswered", "left out"]
LEVELS = {"alarm": 1, "taken out": 2}
"""What a model is once its answers are shown to be others, and the metric's value."""


@dataclass(frozen=True)
class WatchedModel:
    """Who is asked: an engine in one life of it, in an artifact's name."""

    replica: Replica
    life: int
    artifact_id: str

    @property
    def recorded_with(self) -> tuple[str, str]:
        return self.artifact_id, self.replica.artifact.id


class AnswerWatch:
    """Of one gateway. Begins anew with the gateway, and of an engine with each of its starts."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        metrics: Metrics,
        config: ServedSection,
        limits: RequestLimits,
    ) -> None:
        self._registry, self._router, self._metrics = registry, router, metrics
        self._config, self._limits = config, limits
        self._recorded: dict[tuple[str, str], Sequence[ExpectedAnswer]] = {}
        self._looked: dict[tuple[str, str], float] = {}
        """When those without recorded answers were looked up."""
        self._evidence: dict[WatchedModel, AnswerEvidence] = {}
        self._count = 0
        self._doubted: WatchedModel | None = None
        self._doubts = 0
        self._task: asyncio.Task[None] | None = None
        self.states: dict[WatchedModel, str] = {}
        """Models that no longer answer as recorded; the words of `LEVELS`."""

    def start(self) -> None:
        """Ask `per_hour` questions an hour from now on, at random times."""
        if self._config.per_hour:
            self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def ask(self) -> Result | None:
        """Ask one question; None where no model has recorded answers."""
        model = self._choose(await self._models())
        if model is None:
            return None
        began = time.monotonic()
        result = await self._result(model, random.choice(self._recorded[model.recorded_with]))
        self._metrics.served_seconds.inc(time.monotonic() - began)
        self._metrics.served_checks.labels(model.replica.name, result).inc()
        if result in ("as recorded", "otherwise") and model.life == model.replica.engine.restarts:
            await self._judge(model, result == "otherwise")
        return result

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(random.expovariate(self._config.per_hour / 3600))
            try:
                await self.ask()
            except Exception as error:
                log.error("asking a recorded question: %s", frames(error))

    async def _models(self) -> list[WatchedModel]:
        """Whom recorded questions can be put to now; what is known of others is forgotten."""
        standing = [
            WatchedModel(replica, replica.engine.restarts, digest)
            for replica in self._router.replicas
            for digest in (replica.artifact.id, *replica.engine.loaded)
        ]
        lives = {(model.replica, model.life) for model in standing}
        self._evidence = {p: known for p, known in self._evidence.items() if (p.replica, p.life) in lives}
        for model in [model for model in self.states if (model.replica, model.life) not in lives]:
            del self.states[model]
            self._metrics.served_state.remove(model.replica.name, model.artifact_id[:12])
        await self._look_up_all({model.recorded_with for model in standing})
        return [
            model
            for model in standing
            if self._recorded[model.recorded_with]
            and model.replica.engine.up
            and self.states.get(model) != "taken out"
        ]

    async def _look_up_all(self, wanted: Set[tuple[str, str]]) -> None:
        """Know the answers of these; what was known of others is forgotten."""
        now = time.monotonic()
        self._looked = {
            key: at for key, at in self._looked.items() if key in wanted and at > now - LOOK_AGAIN
        }
        known = {key: answers for key, answers in self._recorded.items() if key in wanted}
        self._recorded = {key: answers for key, answers in known.items() if answers or key in self._looked}
        for key in wanted - self._recorded.keys():
            self._recorded[key] = await asyncio.to_thread(self._look_up, *key)
            if not self._recorded[key]:
                self._looked[key] = now

    def _look_up(self, artifact_id: str, beside: str) -> list[ExpectedAnswer]:
        """An adapter's answers count with the very base only that serves it: another one's are others."""
        try:
            artifact = self._registry.get(artifact_id)
            other = None if artifact_id == beside else beside
            return recorded_answers(self._registry, artifact, other, QUESTIONS)
        except RegistryError as error:
            log.warning("recorded answers of artifact %s: %s", artifact_id[:12], error)
        except Exception as error:  # files of one that cannot be read are no reason to ask none of the others
            log.error("recorded answers of artifact %s: %s", artifact_id[:12], frames(error))
        return []

    def _choose(self, models: list[WatchedModel]) -> WatchedModel | None:
        if self._doubts and self._doubted in models:
            self._doubts -= 1
            if self._doubts % 2:
                return self._doubted
        return random.choice(models) if models else None

    async def _result(self, model: WatchedModel, question: ExpectedAnswer) -> Result:
        most = min(TOKENS, self._limits.max_tokens)
        body = {"model": "recorded", "messages": question.messages, "max_tokens": most, "temperature": 0}
        body["reasoning_format"] = "none"  # as it was recorded
        replica = model.replica
        try:
            request = read(json.dumps(body).encode(), True, self._limits)
            replica.queue.enter()
        except ApiError:  # larger than a client's may be, or the engine is too busy
            return "left out"
        usage = TokenUsage(request, keep_text=True)
        try:
            with self._held(model) as name:
                if name is None:
                    return "left out"
                # a salt of its own: what was kept of an earlier prompt is not to answer in the engine's place
                of = (usage.request, name, uuid.uuid4().hex, uuid.uuid4().hex)
                async with asyncio.timeout(ANSWER_SECONDS), replica.ask(*of) as reply:
                    if reply.status == 200:
                        usage.whole(await reply.read())
        except (aiohttp.ClientError, TimeoutError, ServingError):
            return "unanswered"
        finally:
            replica.queue.leave(usage.first is not None)
        if usage.first is None or usage.failed:
            return "unanswered"
        text = "".join(usage.texts).strip()
        early = usage.reason == "stop" and len(text) < len(
            question.answer
        )  # by itself, and not for its length
        return "as recorded" if as_recorded(text, question.answer) and not early else "otherwise"

    @contextlib.contextmanager
    def _held(self, model: WatchedModel) -> Iterator[str | None]:
        if model.artifact_id == model.replica.artifact.id:
            yield model.replica.engine.base
        else:
            with model.replica.pool.hold(model.artifact_id) as name:
                yield name

    async def _judge(self, model: WatchedModel, otherwise: bool) -> None:
        if model not in self._evidence:
            self._count += 1
            self._evidence[model] = AnswerEvidence(self._config.least, self._count)
        evidence = self._evidence[model]
        evidence.add(otherwise)
        if otherwise:
            self._doubted, self._doubts = model, DOUBTS
        alpha, state = self._config.alpha, None
        if self._config.take_out and evidence.alarms(alpha / CERTAIN)[0]:
            state = "taken out"
        elif evidence.alarms(alpha)[0]:
            state = "alarm"
        if state is not None and LEVELS[state] > LEVELS.get(self.states.get(model, ""), 0):
            await self._raise(model, state, evidence)

    async def _raise(self, model: WatchedModel, state: str, evidence: AnswerEvidence) -> None:
        """Say it, everywhere; a model that is taken out gets no more requests in this artifact's name."""
        replica, artifact = model.replica, model.artifact_id
        self.states[model] = state
        if state == "taken out":
            replica.distrust(artifact)
        self._metrics.served_state.labels(replica.name, artifact[:12]).set(LEVELS[state])
        recorded = evidence.asked - int(evidence.otherwise[0])
        log.error(
            "engine %s answered %d of %d recorded questions as artifact %s did when it was evaluated, "
            "fewer than %g of them: %s",
            *(replica.name, recorded, evidence.asked, artifact[:12], self._config.least, state),
        )
        about = {
            "what": "answers",
            "engine": replica.name,
            "endpoint": replica.endpoint,
            "artifact": artifact,
            "asked": evidence.asked,
            "as_recorded": recorded,
            "state": state,
        }
        try:  # nobody else notices it: of several engines alike, and of several starts, each is told
            await asyncio.to_thread(self._registry.webhooks.tell, "drift", about, uuid.uuid4().hex)
        except RegistryError as error:
            log.error("webhooks were not told of engine %s: %s", replica.name, error)
