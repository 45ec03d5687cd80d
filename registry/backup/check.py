"""Whether a backup is whole, and whether a registry is: all that digests, chains and signatures can say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import select

from registry import catalog
from registry.access import access_log
from registry.artifacts import FileEntry
from registry.backup import rows, snapshot
from registry.backup.make import Progress
from registry.backup.place import Place
from registry.backup.snapshot import Snapshot
from registry.channels import channels
from registry.db import tables as schema
from registry.db.tables import artifacts, gate_decisions
from registry.errors import Corrupt
from registry.registry import Registry
from registry.tenancy import rollouts


def backup_problems(
    place: Place, chosen: list[Snapshot], progress: Progress = lambda d, n: None
) -> list[str]:
    """Read every byte that these backups need, each once; what is wrong, and whose it is."""
    problems: list[str] = []
    files: dict[FileEntry, str] = {}
    for made in chosen:
        files |= {entry: f"keys/{name} of backup {made.name}" for name, entry in made.keys.items()}
        with tempfile.TemporaryDirectory(prefix="tuneline-") as scratch:
            try:
                with snapshot.opened(place, made, Path(scratch)) as copy, copy.read() as connection:
                    if rows.digest(connection) != made.rows_digest and made.schema_version == schema.VERSION:
                        problems.append(f"backup {made.name}: its rows differ from those that were written")
                    files |= {e: w for e, w in snapshot.needed(connection).items() if e not in files}
            except Corrupt as error:
                problems.append(str(error))
    for number, (entry, what) in enumerate(files.items(), 1):
        if (fault := place.blobs.fault(entry)) is not None:
            problems.append(f"{what}: blob {entry.sha256} {fault[1]}")
        progress(number, len(files))
    return problems


def registry_problems(registry: Registry) -> list[str]:
    """What is wrong with records, decisions and chained logs; files are read by whoever copies them."""
    return [problem for look in (_records, _decisions, _chains) for problem in look(registry)]


def _records(registry: Registry) -> Iterator[str]:
    with registry.database.read() as connection:
        for artifact_id in connection.execute(select(artifacts.c.id)).scalars().all():
            for problem in catalog.record_problems(connection, artifact_id):
                yield f"artifact {artifact_id[:12]}: {problem}"


def _decisions(registry: Registry) -> Iterator[str]:
    with registry.database.read() as connection:
        signed = select(gate_decisions.c.id).where(gate_decisions.c.signer.is_not(None))
        ids = connection.execute(signed.order_by(gate_decisions.c.sequence)).scalars().all()
    for decision_id in ids:
        if problem := registry.gates.problem(registry.gates.get(decision_id)):
            yield f"gate decision {decision_id[:12]} {problem}"


def _chains(registry: Registry) -> Iterator[str]:
    looks: list[Callable[[], object]] = [registry.tenants.audit]
    for channel in registry.channels.ls():
        looks += [lambda name=channel.name: registry.channels.history(name)]  # type: ignore[misc]
        looks += [lambda name=channel.name: registry.rollouts.history(name)]  # type: ignore[misc]
    with registry.database.read() as connection:
        for log in (channels.HISTORY, rollouts.LOG, access_log.LOG):
            looks.append(lambda log=log: log.verified(connection))  # type: ignore[misc]
        for look in looks:
            try:
                look()
            except Corrupt as error:
                yield str(error)
