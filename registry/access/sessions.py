"""Who is signed in to the web interface. An id is 32 random bytes in a cookie; here is its sha256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from sqlalchemy import delete, insert, select, update

from registry.access.users import User, digest_of
from registry.db.access_tables import cookie_key, sign_ins, users
from registry.db.engine import Database

IDLE_SECONDS = 12 * 3600
"""A session that was not used for so long is over."""
LONGEST_SECONDS = 7 * 86_400
"""A session is over so long after the sign-in, however much it is used."""
_NOTED_EVERY = 60
"""Seconds between two notes that a session is in use: reading a page must not mean writing each time."""


class Sessions:
    """The sessions of a registry."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._key: bytes | None = None

    def begin(self, owner: str | None, instead_of: str | None = None) -> str:
        """The id of a new session of the user `owner` (None: the one person where there are no accounts).

        `instead_of`: the session before it, which ends. Those that are over are forgotten.
        """
        text, at = secrets.token_urlsafe(32), self._clock()
        over = (sign_ins.c.used < at - IDLE_SECONDS) | (sign_ins.c.created < at - LONGEST_SECONDS)
        with self._database.write() as connection:
            connection.execute(delete(sign_ins).where(over))
            if instead_of is not None:
                connection.execute(delete(sign_ins).where(sign_ins.c.sha256 == digest_of(instead_of)))
            row = {"sha256": digest_of(text), "owner": owner, "created": at, "used": at}
            connection.execute(insert(sign_ins), row)
        return text

    def end(self, text: str) -> None:
        """Sign out."""
        with self._database.write() as connection:
            connection.execute(delete(sign_ins).where(sign_ins.c.sha256 == digest_of(text)))

    def user(self, text: str) -> tuple[bool, User | None]:
        """Whether the session is in force, and whose it is (None: the one person without accounts).

        A session of nobody ends as soon as there is an account; one of a revoked user is over.
        """
        at = self._clock()
        fresh = (sign_ins.c.used >= at - IDLE_SECONDS) & (sign_ins.c.created >= at - LONGEST_SECONDS)
        mine = sign_ins.c.sha256 == digest_of(text)
        with self._database.read() as connection:
            row = connection.execute(select(sign_ins).where(mine & fresh)).one_or_none()
            if row is None:
                return False, None
            account = select(users) if row.owner is None else select(users).where(users.c.name == row.owner)
            account_row = connection.execute(account.limit(1)).one_or_none()
        if account_row is not None and (row.owner is None or account_row.revoked is not None):
            return False, None
        if at - row.used > _NOTED_EVERY:
            with self._database.count() as connection:
                connection.execute(update(sign_ins).where(mine), {"used": at})
        return True, None if account_row is None else User.of_row(account_row)

    def key(self) -> bytes:
        """32 random bytes of this registry, which sign cookies and forms; made when first asked for."""
        if self._key is None:
            query = select(cookie_key.c.key)
            with self._database.read() as connection:
                text = connection.execute(query).scalar_one_or_none()
            if text is None:
                with self._database.write() as connection:
                    text = connection.execute(query).scalar_one_or_none()
                    if text is None:
                        text = secrets.token_hex(32)
                        connection.execute(insert(cookie_key), {"only": 1, "key": text})
            self._key = bytes.fromhex(text)
        return self._key

    def signature(self, purpose: str, text: str) -> str:
        """An HMAC-SHA256 (hex) that only holders of the registry can make; one for each purpose."""
        return hmac.new(self.key(), f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()
