"""The engines of a gateway, and which of them can answer with an artifact."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from registry import Artifact, Registry
from registry.compat import contract
from registry.compat.model import Pair, Use, pair
from registry.errors import RegistryError
from registry.tenancy.endpoints import IN_GATEWAY
from registry.tenancy.snapshot import ServingState
from serving.engine.answer_check import ExpectedAnswer, recorded_answers
from serving.engine.protocol import Engine
from serving.errors import NotServable, ServingError
from serving.gateway.config import EngineSection
from serving.gateway.replica import Replica, engine_of
from serving.openai_api.errors import ApiError

log = logging.getLogger("tuneline.gateway")

MakeEngine = Callable[[EngineSection, str, Path, Path, Sequence[ExpectedAnswer]], Engine]


@dataclass
class _Group:
    """What one section of the configuration runs."""

    number: int
    section: EngineSection
    channel: str | None
    """The channel that it follows, if it does."""
    places: list[Replica] = field(default_factory=list)
    turn: int = 0
    target: str | None = None
    """The artifact that the channel points to."""
    moving: asyncio.Task[None] | None = None
    failed: str | None = None
    """The target, once it could not be started; it is not tried again until the channel moves."""

    @property
    def behind(self) -> bool:
        """Whether its channel points to what it does not hold, and could be started for all that is known."""
        held = {place.artifact.id for place in self.places}
        return self.target is not None and self.target not in held and self.target != self.failed


class Router:
    """All engines. Belongs to one event loop."""

    def __init__(
        self, registry: Registry, sections: list[EngineSection], wait_seconds: float,
        make: MakeEngine = engine_of,
    ) -> None:  # fmt: skip
        self._registry, self._wait, self._make = registry, wait_seconds, make
        self._groups = [_Group(number, section, None) for number, section in enumerate(sections)]
        self._known: dict[str, tuple[Artifact, Path]] = {}
        self._fitting: dict[str, list[_Group]] = {}
        self._homes: dict[str, Replica] = {}
        """Of several engines, the one that is to keep an adapter; each is home to about as many."""
        self._lives = itertools.count(1)
        self._pinned: set[str] = set()
        self._draining: set[asyncio.Task[None]] = set()

    async def start(self, state: ServingState) -> None:
        """Start every engine. Raises RegistryError for what is not found, ServingError; nothing runs then."""
        try:
            for group in self._groups:
                followed = state.channels.get(group.section.model)
                group.channel = followed.name if followed else None
                ref = followed.artifact_id if followed else group.section.model
                group.places = await self._started(group, ref)
        except BaseException:
            await self.stop()
            raise
        await self.changed(state)

    async def stop(self) -> None:
        """End every engine."""
        moving = [group.moving for group in self._groups if group.moving] + list(self._draining)
        for task in moving:
            task.cancel()
        await asyncio.gather(*moving, return_exceptions=True)
        await asyncio.gather(*(self._end(place) for place in self.places), return_exceptions=True)

    @property
    def places(self) -> list[Replica]:
        """Every engine that takes requests."""
        return [place for group in self._groups for place in group.places]

    async def changed(self, state: ServingState) -> None:
        """Follow channels that moved, and pin what tenants are pinned to."""
        for group in self._groups:
            channel = state.channels.get(group.channel or "")
            target = channel.artifact_id if channel else None
            if target != group.target:
                group.target, group.failed = target, None
            if group.behind and (group.moving is None or group.moving.done()):
                group.moving = asyncio.create_task(self._follow(group))
        served = {channel.artifact_id for channel in state.channels.values()}
        served |= {rollout.candidate for rollout in state.rollouts.values()}
        self._homes = {one: home for one, home in self._homes.items() if one in served}
        wanted = {tenant.channel for tenant in state.tenants.values() if tenant.pinned}
        pinned = {state.channels[channel].artifact_id for channel in wanted if channel in state.channels}
        for place in self.places:
            for digest in self._pinned - pinned:
                place.pool.unpin(digest)
            for digest in pinned:
                place.pool.pin(digest)
        self._pinned = pinned

    def standing(self, channel: str, artifact_id: str) -> str:
        """What answers for a channel that points to `artifact_id`.

        The artifact before it, while an engine that follows the channel is still loading the new one.
        """
        for group in self._groups:
            if (
                group.channel == channel
                and group.places
                and group.places[0].artifact.manifest.kind != "adapter"
            ):
                held = group.places[0].artifact.id
                if held != artifact_id and group.moving is not None:
                    return held
        return artifact_id

    async def place_for(self, artifact_id: str) -> tuple[Replica, Path]:
        """An engine that can answer with the artifact, and where its files are.

        Raises `ApiError`: 409 where no engine holds its base, with the reasons; 503 while none runs.
        """
        artifact, path = await self.known(artifact_id)
        if artifact_id not in self._fitting:
            self._fitting[artifact_id] = self._groups_for(artifact)
        places = [place for group in self._fitting[artifact_id] for place in group.places]
        running = [place for place in places if place.engine.up]
        if not running:
            raise ApiError("the engine is being started again; try again", None, 503, "unavailable")
        return self._pick(self._fitting[artifact_id][0], places, running, artifact_id), path

    async def known(self, artifact_id: str) -> tuple[Artifact, Path]:
        """An artifact and the directory with its files. Raises `ApiError` (503)."""
        if artifact_id not in self._known:

            def look() -> tuple[Artifact, Path]:
                return self._registry.get(artifact_id), self._registry.view(artifact_id)

            try:
                self._known[artifact_id] = await asyncio.to_thread(look)
            except RegistryError as error:
                log.error("artifact %s: %s", artifact_id[:12], error)
                said = f"artifact {artifact_id[:12]} cannot be read now"
                raise ApiError(said, None, 503, "unavailable") from None
        return self._known[artifact_id]

    def _pick(
        self, group: _Group, places: list[Replica], running: list[Replica], artifact_id: str
    ) -> Replica:
        if len(running) == 1:
            return running[0]
        if not group.section.affinity:
            group.turn += 1
            return running[group.turn % len(running)]
        home = self._homes.get(artifact_id)
        if home not in places:
            adapters = Counter(self._homes.values())
            home = self._homes[artifact_id] = min(places, key=lambda place: adapters[place])

        def seconds(place: Replica) -> tuple[float, bool]:
            """Elsewhere it may have to be loaded, and to put out one that is then loaded again."""
            counts = place.pool.counts
            detour = 0.0 if place is home else 2 * counts.load_seconds / max(counts.loads, 1)
            return place.line.wait() + detour, place is not home

        return min(running, key=seconds)

    def _groups_for(self, artifact: Artifact) -> list[_Group]:
        fitting, reasons = [], []
        for group in self._groups:
            if any(place.artifact.id == artifact.id for place in group.places):
                fitting.append(group)
            elif artifact.manifest.kind != "adapter":
                reasons.append(
                    f"engine {group.number} holds another model than this {artifact.manifest.kind} one"
                )
            elif not group.channel and group.places:
                refused = _refusals(group.places[0], artifact)
                if refused:
                    reasons.append(f"engine {group.number}: {'; '.join(refused)}")
                else:
                    fitting.append(group)
        if not fitting:
            said = f"no engine here can answer with artifact {artifact.id[:12]}: " + " | ".join(reasons)
            raise ApiError(said, None, 409, "incompatible_artifact")
        return fitting

    async def _started(self, group: _Group, ref: str) -> list[Replica]:
        artifact = await asyncio.to_thread(self._registry.get, ref)
        if artifact.manifest.kind == "adapter":
            raise NotServable(
                f"engines.{group.number}.model: {ref} is an adapter; expected the base that it was made for: "
                "adapters are loaded when a tenant's channel points to them"
            )
        _, path = await self.known(artifact.id)
        section = group.section
        if contract.holds_tune(artifact.manifest):
            section = section.model_copy(update={"adapters": 0})
        recorded = await asyncio.to_thread(recorded_answers, self._registry, artifact)
        if group.channel and not recorded:
            log.warning(
                "artifact %s has no held-out answers on record: its files are known, not that the engine "
                "answers with them", artifact.id[:12],
            )  # fmt: skip
        places = []
        for number in range(group.section.replicas):
            name = f"{group.number}-{number}"
            file = self._registry.home / "logs" / f"engine-{name}.{next(self._lives)}.log"
            engine = self._make(section, artifact.id, path, file, recorded)
            places.append(Replica(name, section, artifact, engine, self._wait))
        try:
            contract.require(
                _use(places[0], None),
                f"{group.section.engine} cannot serve this {artifact.manifest.kind} model",
            )
            await asyncio.gather(*(place.start() for place in places))
        except BaseException:
            await asyncio.gather(*(place.stop() for place in places), return_exceptions=True)
            raise
        await asyncio.to_thread(self._sign_on, places[0])
        return places

    async def _follow(self, group: _Group) -> None:
        """Until the group holds what its channel points to, which may move again meanwhile."""
        while group.behind:
            await self._replace(group, str(group.target))

    async def _replace(self, group: _Group, target: str) -> None:
        """Start engines with the new artifact beside the old ones, then let those finish and end them."""
        log.info("channel %s moved: starting engines for artifact %s", group.channel, target[:12])
        try:
            new = await self._started(group, target)
        except (ServingError, RegistryError, ApiError) as error:
            if group.target == target:
                group.failed = target
            log.error("channel %s: its artifact %s cannot be served: %s", group.channel, target[:12], error)
            return
        old, group.places, group.failed = group.places, new, None
        self._fitting.clear()
        for place in old:
            task = asyncio.create_task(self._end_after_use(place))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    def _sign_on(self, place: Replica) -> None:
        """Write down that this process serves the artifact, so that its files are not collected meanwhile."""
        row = self._registry.endpoints.add(
            artifact_id=place.artifact.id, engine=place.section.engine, url=f"{IN_GATEWAY}{place.name}",
            pid=os.getpid(), pid_started=psutil.Process().create_time(), log=self._registry.home / "logs",
        )  # fmt: skip
        place.endpoint = row.id

    async def _end_after_use(self, place: Replica) -> None:
        try:
            while place.line.inside:
                await asyncio.sleep(0.2)
        finally:
            await self._end(place)

    async def _end(self, place: Replica) -> None:
        await place.stop()
        if place.endpoint is not None:
            try:
                await asyncio.to_thread(self._registry.endpoints.mark_stopped, place.endpoint)
            except RegistryError as error:
                log.warning("endpoint %s: %s", place.endpoint, error)


def _use(place: Replica, adapter: Artifact | None) -> Pair:
    use = Use(place.limits, place.section.context_length)
    return pair(place.artifact.manifest, adapter.manifest if adapter else None, use)


def _refusals(place: Replica, adapter: Artifact) -> list[str]:
    return [one.line() for one in contract.examine(_use(place, adapter)) if one.state == "refused"]
