"""What people call an artifact: its id or the beginning of it, `name@version`, or a channel."""

from __future__ import annotations

import difflib
import re

from sqlalchemy import Connection, func, insert, select

from registry import catalog
from registry.db.tables import artifacts, channels, names
from registry.errors import InvalidArtifact, NotFound

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_PREFIX = re.compile(r"[0-9a-f]{6,64}")


def resolve(connection: Connection, ref: str) -> catalog.Artifact:
    """The artifact of a full id, a unique prefix of 6 or more digits, `name@version`, or a channel's name."""
    query = select(*catalog.ROW)
    name, at, version = ref.rpartition("@")
    if at:
        number = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else -1
        query = query.join(names, names.c.artifact_id == artifacts.c.id)
        query = query.where((names.c.name == name) & (names.c.version == number))
    elif "/" in ref:
        query = query.join(channels, channels.c.artifact_id == artifacts.c.id).where(channels.c.name == ref)
    elif _PREFIX.fullmatch(ref):
        query = query.where((artifacts.c.id >= ref) & (artifacts.c.id < ref + "g")).limit(5)
    else:
        raise _not_found(connection, ref)
    matches = catalog.read(connection, query)
    if not matches:
        raise _not_found(connection, ref)
    if len(matches) > 1:
        candidates = ", ".join(artifact.id[: len(ref) + 6] for artifact in matches)
        raise NotFound(f"{ref!r} is ambiguous: it begins {candidates}; give more digits")
    return matches[0]


def give_name(connection: Connection, artifact_id: str, name: str) -> int:
    """Give the artifact the next version of `name`; a name that it already has keeps its version."""
    if not NAME.fullmatch(name):
        raise InvalidArtifact(
            f"{name[:80]!r} is not a valid artifact name; expected lower-case letters, digits, '.', '_' and "
            "'-', up to 100, beginning with a letter or digit"
        )
    catalog.existing(connection, artifact_id)
    has = (names.c.name == name) & (names.c.artifact_id == artifact_id)
    version = connection.execute(select(names.c.version).where(has)).scalar_one_or_none()
    if version is None:
        latest = select(func.max(names.c.version)).where(names.c.name == name)
        version = (connection.execute(latest).scalar_one() or 0) + 1
        connection.execute(insert(names), {"name": name, "version": version, "artifact_id": artifact_id})
    return int(version)


def _not_found(connection: Connection, ref: str) -> NotFound:
    latest = select(names.c.name, names.c.version).order_by(names.c.sequence.desc()).limit(1000)
    candidates = [f"{name}@{version}" for name, version in connection.execute(latest)]
    candidates += connection.execute(select(channels.c.name).limit(1000)).scalars()
    if len(ref) >= 3 and re.fullmatch("[0-9a-f]+", ref):
        same_start = (artifacts.c.id >= ref[:3]) & (artifacts.c.id < ref[:3] + "g")
        ids = connection.execute(select(artifacts.c.id).where(same_start).limit(20)).scalars()
        candidates += [artifact_id[:12] for artifact_id in ids]
    near = difflib.get_close_matches(ref, candidates, n=3, cutoff=0.5)
    return NotFound(
        f"no artifact or channel is called {ref[:120]!r}; expected an id (6 or more of its digits), "
        "name@version "
        "or a channel such as team/prod" + (f"; near: {', '.join(near)}" if near else "")
    )
