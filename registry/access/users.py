"""Users: who may look at the registry and who may change it. Every change is in a chained log.

A user signs in with a token, `tlu-<id>-<secret>` with 32 random bytes in the secret, of which only the sha256
is kept (why no slow hash: `registry.tenancy.tenants`), or through OpenID Connect, and then has an `identity`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict, get_args

from sqlalchemy import Connection, Row, delete, insert, select, update

from registry.access import access_log
from registry.access.access_log import AccessEvent
from registry.artifacts import Record
from registry.channels.channels import check_text
from registry.db.access_tables import sign_ins, user_tokens, users
from registry.db.engine import Database, now
from registry.errors import AlreadyExists, InvalidUser, NotFound

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may what those before it may: look; move channels, roll out, run; tenants, keys, users, webhooks."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_TOKEN = re.compile(r"tlu-[0-9a-f]{12}-[A-Za-z0-9_-]{43}")


class User(Record):
    """Somebody who may sign in unless `revoked`; `identity` is what an OpenID provider calls the person."""

    name: str
    role: Role
    identity: str | None
    created: datetime
    revoked: datetime | None


class _UserState(TypedDict):
    role: str
    identity: str | None
    revoked: str | None
    tokens: dict[str, str]
    """Id → sha256, of those that open something."""


class Users:
    """The users of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, role: str, who: str) -> tuple[User, str]:
        """A new user, or a revoked one again, with a new token, which is not kept: show it once.

        Raises AlreadyExists, InvalidUser for a bad name or role, or the name of an OpenID Connect user.
        """
        _check(name, role)
        check_text("the name of whoever adds the user", who)
        with self._database.write() as connection:
            row = _row(connection, name)
            if row is not None and row.revoked is None:
                raise AlreadyExists(
                    f"user {name} exists already; for a new token or another role, `tuneline users revoke "
                    f"{name}`, then add it again"
                )
            if row is not None and row.identity is not None:
                raise InvalidUser(
                    f"{name} is a user of OpenID Connect and gets no token; choose another name"
                )
            if row is None:
                connection.execute(insert(users), _new(name, role, None))
            else:
                _step(connection, row, {"role": role, "revoked": None})
            text = _new_token(connection, name)
            _record(connection, name, "add", who)
            return User.of_row(_existing(connection, name)), text

    def ls(self) -> list[User]:
        """All users by name, the revoked ones too."""
        with self._database.read() as connection:
            return [User.of_row(row) for row in connection.execute(select(users).order_by(users.c.name))]

    def get(self, name: str) -> User:
        """The user of this name, revoked or not. Raises NotFound."""
        with self._database.read() as connection:
            return User.of_row(_existing(connection, name))

    def exist(self) -> bool:
        """Whether there ever was a user: from then on nobody gets in without an account."""
        with self._database.read() as connection:
            return connection.execute(select(users.c.name).limit(1)).first() is not None

    def of_token(self, text: str) -> User | None:
        """Whose token this is; None for one that opens nothing."""
        if not _TOKEN.fullmatch(text):
            return None
        query = select(users).join(user_tokens, user_tokens.c.owner == users.c.name)
        valid = user_tokens.c.revoked.is_(None) & users.c.revoked.is_(None)
        with self._database.read() as connection:
            row = connection.execute(query.where(valid, user_tokens.c.sha256 == digest_of(text))).first()
        return None if row is None else User.of_row(row)

    def of_identity(self, identity: str, name: str, role: str) -> User | None:
        """The user whom a provider calls `identity`, in the role that it says; a new one is called `name`.

        None for a revoked user. Raises InvalidUser for a bad name, and AlreadyExists where the name is
        another's, since names are what the log of changes shows.
        """
        with self._database.read() as connection:
            row = connection.execute(select(users).where(users.c.identity == identity)).one_or_none()
        if row is not None and (row.revoked is not None or row.role == role):
            return None if row.revoked is not None else User.of_row(row)
        _check(name if row is None else row.name, role)
        check_text("the identity", identity)
        with self._database.write() as connection:
            row = connection.execute(select(users).where(users.c.identity == identity)).one_or_none()
            if row is None:
                if _row(connection, name) is not None:
                    raise AlreadyExists(
                        f"the name {name} belongs to another user; ask an admin to resolve that"
                    )
                connection.execute(insert(users), _new(name, role, identity))
                _record(connection, name, "add", "OpenID Connect")
            elif row.revoked is not None:
                return None
            elif row.role != role:
                name = row.name
                _step(connection, row, {"role": role})
                _record(connection, name, "role", "OpenID Connect")
            return User.of_row(_existing(connection, name if row is None else row.name))

    def change_role(self, name: str, role: str, who: str) -> User:
        """Give the user this role; it holds from the next request on. The role of before changes nothing.

        Raises NotFound, and InvalidUser for an unknown role, a revoked user, or one of OpenID Connect, whose
        role the provider says.
        """
        check_text("the name of whoever changes the role", who)
        _check(name, role)
        with self._database.write() as connection:
            row = _existing(connection, name)
            if row.identity is not None:
                raise InvalidUser(
                    f"{name} is a user of OpenID Connect: the provider's claim says the role "
                    "(TUNELINE_OIDC_ROLES)"
                )
            if row.revoked is not None:
                raise InvalidUser(
                    f"{name} is revoked; `tuneline users add {name} --role {role}` restores access"
                )
            if row.role != role:
                _step(connection, row, {"role": role})
                _record(connection, name, "role", who)
            return User.of_row(_existing(connection, name))

    def revoke(self, name: str, who: str) -> bool:
        """End the user's tokens and sign-ins at once; False where the user was revoked before.

        Raises NotFound. An OpenID Connect user stays out, whatever the provider says.
        """
        check_text("the name of whoever revokes the user", who)
        with self._database.write() as connection:
            row = _existing(connection, name)
            if row.revoked is not None:
                return False
            at = now()
            live = (user_tokens.c.owner == name) & user_tokens.c.revoked.is_(None)
            connection.execute(update(user_tokens).where(live), {"revoked": at})
            connection.execute(delete(sign_ins).where(sign_ins.c.owner == name))
            _step(connection, row, {"revoked": at})
            _record(connection, name, "revoke", who)
            return True

    def audit(self) -> list[AccessEvent]:
        """Every change of users, oldest first; raises Corrupt when one, or a user, is not as it was."""
        with self._database.read() as connection:
            standing = {
                f"user {row.name}": (row.changes, _state(connection, row))
                for row in connection.execute(select(users).order_by(users.c.name)).all()
            }
            return access_log.checked(connection, standing)


def digest_of(text: str) -> str:
    """What of a token is stored: its sha256 (hex)."""
    return hashlib.sha256(text.encode()).hexdigest()


def _check(name: str, role: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidUser(
            f"{name[:80]!r} is not a valid user name; expected up to 128 letters of ASCII, digits, '.', '_', "
            "'@', '+', '-', beginning with a letter or digit"
        )
    if role not in ROLES:
        raise InvalidUser(f"role {role[:40]!r}: expected one of {', '.join(ROLES)}")


def _new(name: str, role: str, identity: str | None) -> Mapping[str, object]:
    return {"name": name, "role": role, "identity": identity, "created": now(), "changes": 1}


def _new_token(connection: Connection, name: str) -> str:
    token_id = secrets.token_hex(6)
    text = f"tlu-{token_id}-{secrets.token_urlsafe(32)}"
    row = {"id": token_id, "sha256": digest_of(text), "owner": name, "created": now()}
    connection.execute(insert(user_tokens), row)
    return text


def _step(connection: Connection, before: Row[Any], new: Mapping[str, object]) -> None:
    mine = users.c.name == before.name
    connection.execute(update(users).where(mine), {**new, "changes": before.changes + 1})


def _record(connection: Connection, name: str, action: access_log.Action, who: str) -> None:
    row = _existing(connection, name)
    access_log.record(connection, f"user {name}", row.changes, action, _state(connection, row), who)


def _state(connection: Connection, row: Row[Any]) -> _UserState:
    live = select(user_tokens).where(user_tokens.c.owner == row.name, user_tokens.c.revoked.is_(None))
    tokens = {token.id: token.sha256 for token in connection.execute(live)}
    return {"role": row.role, "identity": row.identity, "revoked": row.revoked, "tokens": tokens}


def _row(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(users).where(users.c.name == name)).one_or_none()


def _existing(connection: Connection, name: str) -> Row[Any]:
    row = _row(connection, name)
    if row is None:
        raise NotFound(f"no user {name[:80]!r}; `tuneline users ls` lists them")
    return row
