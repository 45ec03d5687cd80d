"""Who asks: read from the cookie of a session, or from the header of a script."""

from __future__ import annotations

import getpass
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from registry import Registry
from registry.access.sessions import LONGEST_SECONDS
from registry.access.users import Role
from registry.db.remembered import Remembered

Purpose = Literal["session", "seed", "oidc"]
BEFORE_SECONDS = 600
"""How long a sign-in that was begun may take."""


@dataclass(frozen=True)
class Caller:
    """Who asks. `account`: signed in; `local`: the one person without accounts; `token`: a script."""

    name: str
    role: Role
    kind: Literal["account", "local", "token"]


class Callers:
    """Reads and writes what a browser keeps. Each cookie is signed, and useless to scripts of a page."""

    def __init__(self, registry: Registry, secure: bool) -> None:
        self._registry = registry
        self._secure = secure
        self._remembered = Remembered(registry.database)
        # Cookies of one host are shared by its ports: two registries on one machine must not disturb another.
        self._suffix = registry.sessions.signature("name", "")[:8]

    def ask(self, request: Request) -> tuple[Caller | None, str | None]:
        """Who asks and, where it is a session, its id. Raises RegistryError."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            user = self._registry.users.of_token(token.strip())
            return (None if user is None else Caller(user.name, user.role, "token")), None
        session = self.read(request, "session")
        if session is None:
            return None, None
        in_force, user = self._remembered.get(session, lambda: self._registry.sessions.user(session))
        if not in_force:
            return None, None
        if user is None:
            return Caller(getpass.getuser(), "admin", "local"), session
        return Caller(user.name, user.role, "account"), session

    def read(self, request: Request, purpose: Purpose) -> str | None:
        """What the cookie says, unless somebody else wrote it."""
        text, _, signature = request.cookies.get(self._name(purpose), "").rpartition(".")
        expected = self._registry.sessions.signature(f"cookie {purpose}", text)
        same = hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode())
        return text if text and same else None

    def write(self, answer: Response, purpose: Purpose, text: str) -> None:
        """Have the browser keep `text` (printable ASCII without `;` and spaces)."""
        signature = self._registry.sessions.signature(f"cookie {purpose}", text)
        answer.set_cookie(
            self._name(purpose),
            f"{text}.{signature}",
            max_age=LONGEST_SECONDS if purpose == "session" else BEFORE_SECONDS,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )

    def forget(self, answer: Response, purpose: Purpose) -> None:
        """Have the browser drop the cookie."""
        name = self._name(purpose)
        answer.delete_cookie(name, path="/", secure=self._secure, httponly=True, samesite="lax")

    def form_token(self, session: str) -> str:
        """What a form has to send along, so that only pages of this session can have made it."""
        return self._registry.sessions.signature("form", session)

    def seed(self, request: Request) -> str:
        """What takes a session's place in the form that signs in."""
        return self.read(request, "seed") or secrets.token_urlsafe(24)

    def _name(self, purpose: Purpose) -> str:
        # With the prefix browsers refuse the cookie from another path, a subdomain, or without TLS.
        return f"{'__Host-' if self._secure else ''}tuneline_{purpose}_{self._suffix}"
