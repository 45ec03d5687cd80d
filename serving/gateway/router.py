"""The engines of a gateway, and which of them can answer with an artifact."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry import Artifact, Registry
from registry.compat import contract
from registry.compat.model import Pair, Use, pair
from registry.errors import RegistryError
from registry.processes import ProcessId
from registry.tenancy.endpoints import IN_GATEWAY, OPERATIONS
from registry.tenancy.snapshot import ServingState
from serving.engine.answer_check import ExpectedAnswer, recorded_answers
from serving.engine.protocol import Engine
from serving.errors import NotServable, ServingError
from serving.gateway.config import EngineSection, ServeConfig
from serving.gateway.replica import Replica, engine_of
from serving.openai_api.errors import ApiError

log = logging.getLogger("tuneline.gateway")

NOT_CHECKED = "artifact %s has no held-out answers on record: nothing shows that the engine serves it"
MakeEngine = Callable[[EngineSection, str, Path, Path, Sequence[ExpectedAnswer]], Engine]


@dataclass
class _Group:
    """What one section of the configuration runs."""

    number: int
    section: EngineSection
    channel: str | None
    """The channel that it follows, if it does."""
    replicas: list[Replica] = field(default_factory=list)
    turn: int = 0
    target: str | None = None
    """The artifact that the channel points to."""
    moving: asyncio.Task[None] | None = None
    failed: str | None = None
    """The target, once it could not be started; it is not tried again until the channel moves."""

    @property
    def behind(self) -> bool:
        """Whether its channel points to what it does not hold, and could be started for all that is known."""
        held = {replica.artifact.id for replica in self.replicas}
        return self.target is not None and self.target not in held and self.target != self.failed


class Router:
    """All engines. Belongs to one event loop."""

    def __init__(self, registry: Registry, config: ServeConfig, make: MakeEngine = engine_of) -> None:
        self._registry, self._wait, self._make = registry, config.bounds.wait_seconds, make
        self._groups = [_Group(number, section, None) for number, section in enumerate(config.engines)]
        self._artifacts: dict[str, tuple[Artifact, Path]] = {}
        self._fitting: dict[str, list[_Group]] = {}
        self._homes: dict[str, Replica] = {}
        """Of several engines, the one that is to keep an adapter; each is home to about as many."""
        self._lives = itertools.count(1)
        self._pinned: set[str] = set()
        self._draining: set[asyncio.Task[None]] = set()
        self._operations = ""

    async def start(self, state: ServingState, operations: str) -> None:
        """Start every engine; `operations` is where the gateway's numbers are, for who looks at an engine.

        Raises RegistryError for what is not found, ServingError; nothing runs then.
        """
        self._operations = operations
        try:
            for group in self._groups:
                followed = state.channels.get(group.section.model)
                group.channel = followed.name if followed else None
                ref = followed.artifact_id if followed else group.section.model
                group.replicas = await self._start_replicas(group, ref)
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
        await asyncio.gather(*(self._end(replica) for replica in self.replicas), return_exceptions=True)

    @property
    def replicas(self) -> list[Replica]:
        """Every engine that takes requests."""
        return [replica for group in self._groups for replica in group.replicas]

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
        self._homes = {digest: home for digest, home in self._homes.items() if digest in served}
        wanted = {tenant.channel for tenant in state.tenants.values() if tenant.pinned}
        pinned = {state.channels[channel].artifact_id for channel in wanted if channel in state.channels}
        for replica in self.replicas:
            for digest in self._pinned - pinned:
                replica.pool.unpin(digest)
            for digest in pinned:
                replica.pool.pin(digest)
        self._pinned = pinned

    def serving_artifact(self, channel: str, artifact_id: str) -> str:
        """What answers for a channel that points to `artifact_id`.

        The artifact before it, while an engine that follows the channel is still loading the new one.
        """
        for group in self._groups:
            if group.channel == channel and group.replicas and group.moving is not None:
                held = group.replicas[0].artifact
                if held.manifest.kind != "adapter" and held.id != artifact_id:
                    return held.id
        return artifact_id

    async def replica_for(self, artifact_id: str) -> tuple[Replica, Path]:
        """An engine that can answer with the artifact, and where its files are.

        Raises `ApiError`: 409 where no engine holds its base, with the reasons; 503 while none runs, or
        none answers as it should (`served.watch`).
        """
        artifact, path = await self._find(artifact_id)
        if artifact_id not in self._fitting:
            self._fitting[artifact_id] = self._groups_for(artifact)
        replicas = [replica for group in self._fitting[artifact_id] for replica in group.replicas]
        running = [replica for replica in replicas if replica.engine.up]
        if not running:
            raise ApiError("the engine is restarting; try again", None, 503, "unavailable")
        trusted = [replica for replica in running if replica.trusts(artifact_id)]
        if not trusted:
            message = f"no engine here answers as artifact {artifact_id[:12]} did when it was evaluated"
            raise ApiError(message, None, 503, "not_as_evaluated")
        return self._pick(self._fitting[artifact_id][0], replicas, trusted, artifact_id), path

    async def _find(self, artifact_id: str) -> tuple[Artifact, Path]:
        """An artifact and the directory with its files. Raises `ApiError` (503)."""
        if artifact_id not in self._artifacts:

            def look() -> tuple[Artifact, Path]:
                return self._registry.get(artifact_id), self._registry.view(artifact_id)

            try:
                self._artifacts[artifact_id] = await asyncio.to_thread(look)
            except RegistryError as error:
                log.error("artifact %s: %s", artifact_id[:12], error)
                message = f"artifact {artifact_id[:12]} cannot be read now"
                raise ApiError(message, None, 503, "unavailable") from None
        return self._artifacts[artifact_id]

    def _pick(
        self, group: _Group, replicas: list[Replica], running: list[Replica], artifact_id: str
    ) -> Replica:
        if len(running) == 1:
            return running[0]
        if not group.section.affinity:
            group.turn += 1
            return running[group.turn % len(running)]
        home = self._homes.get(artifact_id)
        if home not in replicas:
            adapters = Counter(self._homes.values())
            home = self._homes[artifact_id] = min(replicas, key=lambda replica: adapters[replica])

        def seconds(replica: Replica) -> tuple[float, bool]:
            """Elsewhere it may have to be loaded, and to put out one that is then loaded again."""
            counts = replica.pool.counts
            detour = 0.0 if replica is home else 2 * counts.load_seconds / max(counts.loads, 1)
            return replica.queue.wait() + detour, replica is not home

        return min(running, key=seconds)

    def _groups_for(self, artifact: Artifact) -> list[_Group]:
        fitting, reasons = [], []
        for group in self._groups:
            if any(replica.artifact.id == artifact.id for replica in group.replicas):
                fitting.append(group)
            elif artifact.manifest.kind != "adapter":
                kind = artifact.manifest.kind
                reasons.append(f"engine {group.number} holds another model than this {kind} one")
            elif not group.channel and group.replicas:
                if refusals := _refusals(group.replicas[0], artifact):
                    reasons.append(f"engine {group.number}: {'; '.join(refusals)}")
                else:
                    fitting.append(group)
        if not fitting:
            message = f"no engine here can answer with artifact {artifact.id[:12]}: " + " | ".join(reasons)
            raise ApiError(message, None, 409, "incompatible_artifact")
        return fitting

    async def _start_replicas(self, group: _Group, ref: str) -> list[Replica]:
        artifact = await asyncio.to_thread(self._registry.get, ref)
        if artifact.manifest.kind == "adapter":
            raise NotServable(
                f"engines.{group.number}.model: {ref} is an adapter; expected the base that it was made for: "
                "adapters are loaded when a tenant's channel points to them"
            )
        _, path = await self._find(artifact.id)
        section = group.section
        if contract.holds_tune(artifact.manifest):
            section = section.model_copy(update={"adapters": 0})
        expected = await asyncio.to_thread(recorded_answers, self._registry, artifact)
        if group.channel and not expected:
            log.warning(NOT_CHECKED, artifact.id[:12])
        replicas = []
        for number in range(group.section.replicas):
            name = f"{group.number}-{number}"
            log_file = self._registry.home / "logs" / f"engine-{name}.{next(self._lives)}.log"
            engine = self._make(section, artifact.id, path, log_file, expected)
            replicas.append(Replica(name, section, artifact, engine, self._wait))
        try:
            problem = f"{group.section.engine} cannot serve this {artifact.manifest.kind} model"
            contract.require(_use(replicas[0], None), problem)
            await asyncio.gather(*(replica.start() for replica in replicas))
        except BaseException:
            await asyncio.gather(*(replica.stop() for replica in replicas), return_exceptions=True)
            raise
        await asyncio.to_thread(self._sign_on, replicas[0])
        return replicas

    async def _follow(self, group: _Group) -> None:
        """Until the group holds what its channel points to, which may move again meanwhile."""
        while group.behind:
            await self._replace(group, str(group.target))

    async def _replace(self, group: _Group, target: str) -> None:
        """Start engines with the new artifact beside the old ones, then let those finish and end them."""
        log.info("channel %s moved: starting engines for artifact %s", group.channel, target[:12])
        try:
            new = await self._start_replicas(group, target)
        except (ServingError, RegistryError, ApiError) as error:
            if group.target == target:
                group.failed = target
            log.error("channel %s: its artifact %s cannot be served: %s", group.channel, target[:12], error)
            return
        old, group.replicas, group.failed = group.replicas, new, None
        self._fitting.clear()
        for replica in old:
            task = asyncio.create_task(self._end_after_use(replica))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    def _sign_on(self, replica: Replica) -> None:
        """Write down that this process serves the artifact, so that its files are not collected meanwhile."""
        endpoint = self._registry.endpoints.add(
            artifact_id=replica.artifact.id,
            engine=replica.section.engine,
            url=f"{IN_GATEWAY}{replica.name}",
            process=ProcessId.of(),
            log=self._registry.home / "logs",
            config={OPERATIONS: self._operations},
        )
        replica.endpoint = endpoint.id

    async def _end_after_use(self, replica: Replica) -> None:
        try:
            while replica.owed:
                await asyncio.sleep(0.2)
        finally:
            await self._end(replica)

    async def _end(self, replica: Replica) -> None:
        await replica.stop()
        if replica.endpoint is not None:
            try:
                await asyncio.to_thread(self._registry.endpoints.mark_stopped, replica.endpoint)
            except RegistryError as error:
                log.warning("endpoint %s: %s", replica.endpoint, error)


def _use(replica: Replica, adapter: Artifact | None) -> Pair:
    use = Use(replica.limits, replica.section.context_length)
    return pair(replica.artifact.manifest, adapter.manifest if adapter else None, use)


def _refusals(replica: Replica, adapter: Artifact) -> list[str]:
    checks = contract.examine(_use(replica, adapter))
    return [check.line() for check in checks if check.state == "refused"]
