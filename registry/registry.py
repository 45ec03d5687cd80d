"""The registry as everyone above sees it: artifacts in, artifacts out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from registry import catalog, content, drafts, references, verifications
from registry.access.sessions import Sessions
from registry.access.users import Users
from registry.access.webhooks import Webhooks
from registry.artifacts import FileEntry, Kind
from registry.catalog import Artifact, Edge, Execution
from registry.channels.channels import Channels
from registry.channels.decisions import Gates
from registry.channels.signing import Keys
from registry.db.engine import Database
from registry.drafts import Draft
from registry.errors import InvalidArtifact
from registry.feeds.feeds import Feeds
from registry.feeds.forgetting import Forgettings
from registry.feeds.traffic import Traffic
from registry.gc import collect
from registry.gc.reachability import RetentionPolicy, reach
from registry.gc.report import GcReport
from registry.leases import NO_WAIT, Leases, Patience
from registry.schedules.occasions import Occasions
from registry.schedules.runs import ScheduledRuns
from registry.schedules.schedules import Schedules
from registry.store.files import Heard, unheard, wrap_os_errors
from registry.store.local import Failpoint
from registry.store.store import Discrepancy, Store
from registry.tenancy import snapshot
from registry.tenancy.budgets import Budgets
from registry.tenancy.consents import Consents
from registry.tenancy.endpoints import Endpoints
from registry.tenancy.outcomes import Outcomes
from registry.tenancy.rollouts import Rollouts
from registry.tenancy.snapshot import ServingState
from registry.tenancy.tenants import Tenants

LEASE_SECONDS = 3600.0
# Long, since a stage can be silent for long; a holder that died on this host is replaced at once anyway.
_KEY = re.compile("[0-9a-f]{64}")


def _pass(_failpoint: str) -> None:
    return None


class Registry:
    """A home directory: the database, and the content store beside it.

    home/registry.db   the only thing that says what exists
    home/blobs/        each file once, under its sha256; with an object store, home/cache/ instead
    home/views/        one directory of links per artifact, made when asked for
    home/drafts/       what stages are writing; one directory per memo key
    """

    def __init__(
        self, home: Path, database: Database, store: Store, keys: Keys, leases: Leases, failpoint: Failpoint
    ) -> None:
        self.home = home
        self.keys, self.leases = keys, leases
        self.channels = Channels(database, keys)
        self.gates = Gates(database, keys)
        self.endpoints = Endpoints(database)
        self.tenants = Tenants(database)
        self.rollouts = Rollouts(database)
        self.budgets = Budgets(database)
        self.outcomes = Outcomes(database)
        self.users = Users(database)
        self.sessions = Sessions(database)
        self.webhooks = Webhooks(database)
        self.schedules = Schedules(database)
        self.occasions = Occasions(database)
        self.scheduled_runs = ScheduledRuns(database)
        self.feeds = Feeds(database)
        self.forgettings = Forgettings(database, store)
        self.consents = Consents(database)
        self.traffic = Traffic(database)
        # What reads more than this class offers (the API, tests) goes through these two.
        self.database = database
        self.store = store
        self._context = drafts.DraftContext(home / "drafts", database, store, leases, failpoint)

    @classmethod
    def open(
        cls,
        home: Path,
        database_url: str | None = None,
        store_url: str | None = None,
        *,
        failpoint: Failpoint = _pass,
        lease_seconds: float = LEASE_SECONDS,
        signing_key: Path | None = None,
    ) -> Registry:
        """Open the registry in `home`, making it where there is none.

        `failpoint` hears of each step of a publication (for tests that fail there). A lease lasts
        `lease_seconds` unless `Draft.touch` renews it. Gate decisions are signed with `signing_key` (default:
        a key that the registry makes for itself). Raises RegistryError for a schema from a newer Tuneline.
        """
        home = Path(home).absolute()
        with wrap_os_errors(f"registry {home}"):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)  # models, salts, digests of keys
            for folder in ("drafts", "views"):
                (home / folder).mkdir(parents=True, exist_ok=True)
            store = Store(home, failpoint, store_url)
        database = Database.open(home / "registry.db", database_url)
        keys, leases = Keys(home, signing_key), Leases(database, lease_seconds)
        return cls(home, database, store, keys, leases, failpoint)

    def close(self) -> None:
        """Let go of the database and the store; needed before a fork."""
        self.database.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reach(self) -> None:
        """Ask the database and the store for one thing that neither has. Raises RegistryError."""
        with self.database.read() as connection:
            catalog.by_key(connection, "")
        self.store.missing([FileEntry(sha256="0" * 64, size=0)])

    def find(self, key: str) -> Artifact | None:
        """What the memo key stands for, if it was ever published."""
        with self.database.read() as connection:
            artifact = catalog.by_key(connection, key)
        if artifact is not None:
            drafts.sweep(self._context, key)
        return artifact

    def sweep(self) -> None:
        """Remove what processes that died left in this home of results that are published by now, maybe by
        another machine; a draft whose result is not known keeps its checkpoints for whoever makes it."""
        for left in sorted((self.home / "drafts").iterdir()):
            if _KEY.fullmatch(left.name):
                self.find(left.name)

    def draft(
        self, key: str, stage: str, holds: Iterable[str] = (), patience: Patience = NO_WAIT
    ) -> AbstractContextManager[Draft]:
        """A directory to write the result for `key` into, under a lease; see `Draft.commit`.

        The lease keeps the content of the artifacts in `holds` (ids), which the work reads, from being
        collected. While a live process works on the key this waits, and raises Held when patience ends.
        Whoever waited looks with `find` first: the other may have made the result.
        """
        if not _KEY.fullmatch(key):
            raise InvalidArtifact(
                f"{key[:80]!r} is not a memo key; expected the sha256 that memo_key() returns"
            )
        return drafts.opened(self._context, key, stage, holds, patience)

    def get(self, ref: str) -> Artifact:
        """The artifact of an id, a unique prefix of its id (6 digits or more), `name@version`, or a channel.

        Raises NotFound, which lists what comes near.
        """
        with self.database.read() as connection:
            return references.resolve(connection, ref)

    def name(self, artifact_id: str, name: str) -> int:
        """Give the artifact a human name; returns its version, 1 for the first artifact of that name.

        Versions have no gaps. An artifact that has the name already keeps its version.
        """
        with self.database.write() as connection:
            content.require(connection, [artifact_id])
            return references.give_name(connection, artifact_id, name)

    def ls(self, kind: Kind | None = None, limit: int = 50, after: str | None = None) -> list[Artifact]:
        """A page of artifacts, newest first; `after` is the id of the last one of the page before."""
        with self.database.read() as connection:
            return catalog.page(connection, kind, limit, after)

    def collected(self, ids: Iterable[str]) -> set[str]:
        """Those of the artifacts whose files were collected to free space."""
        with self.database.read() as connection:
            return set(content.collected(connection, list(ids)))

    def collect(
        self, retention: RetentionPolicy | None = None, *, delete: bool = False, cache: bool = False
    ) -> GcReport:
        """Free what nothing needs, or with `delete` unset only say what that would be.

        `cache` also empties the local cache of an object store, but for what an endpoint or a stage reads.
        Raises Conflict when another process writes for too long, StoreFailed for the disk, the database or
        the store; what was done until then stands, and the next collection goes on from there.
        """
        return collect.collect(self._context, retention or RetentionPolicy(), delete=delete, cache=cache)

    def why_kept(self, artifact_id: str, retention: RetentionPolicy) -> list[str]:
        """Why a collection leaves the artifact its files; empty when it does not."""
        with self.database.read() as connection:
            return reach(connection, retention, datetime.now(UTC)).why(artifact_id)

    def lineage(self, artifact_id: str) -> list[Edge]:
        """Every edge from the artifact up to its furthest ancestors, nearest first. Raises NotFound."""
        with self.database.read() as connection:
            catalog.existing(connection, artifact_id)
            return catalog.lineage(connection, artifact_id)

    def evaluations(self, artifact_id: str) -> list[Artifact]:
        """The evaluations that name the artifact as what they measured, oldest first."""
        with self.database.read() as connection:
            return catalog.evaluations(connection, artifact_id)

    def executions(self, artifact_id: str) -> list[Execution]:
        """The runs that led to the artifact, oldest first."""
        with self.database.read() as connection:
            return catalog.runs(connection, artifact_id)

    def executions_here(self, stage: str, machine: str, limit: int) -> list[tuple[Artifact, Execution]]:
        """What a stage made on this host, recorded under that name of the machine, and what that took; the
        latest first."""
        with self.database.read() as connection:
            return catalog.runs_here(connection, stage, machine, limit)

    def serving_state(self) -> ServingState:
        """Channels, tenants, live keys and rollouts in force, of one moment: what a gateway goes by."""
        with self.database.read() as connection:
            return snapshot.read(connection)

    def serving_version(self) -> int:
        """A number that grows with each change of what `serving_state` reads; ask for it as often as needed.

        That a key expires is no change: the state says when it will.
        """
        with self.database.read() as connection:
            return snapshot.version(connection)

    def view(self, artifact_id: str) -> Path:
        """A read-only directory with the artifact's files under their names, for engines to read.

        Raises NotFound, or Corrupt when a stored file is gone.
        """
        with self.database.read() as connection:
            artifact = catalog.existing(connection, artifact_id)
            content.require(connection, [artifact_id])
        return self.store.view(artifact.id, artifact.manifest.files)

    def verify(self, artifact_id: str, heard: Heard = unheard) -> list[Discrepancy]:
        """Read every byte and every column of the artifact; an empty list means that all is as published.

        `heard` hears of the bytes as they are read, which come to the artifact's size where none is missing.
        The home remembers how many problems there were, for `tuneline metrics`.
        """
        with self.database.read() as connection:
            artifact = catalog.existing(connection, artifact_id)
            content.require(connection, [artifact_id])
            record = [
                Discrepancy(file="", kind="record", detail=detail)
                for detail in catalog.record_problems(connection, artifact_id)
            ]
        problems = record + self.store.problems(artifact.id, artifact.manifest.files, heard)
        verifications.record(self.home, artifact.id, len(problems))
        return problems
