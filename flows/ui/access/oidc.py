"""Signing in through OpenID Connect: authorization code with PKCE, state and nonce, by Authlib."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

from flows.errors import Usage
from flows.settings import Settings
from flows.ui.access.caller import Callers
from registry import Registry
from registry.access.users import NAME, ROLES, Role
from registry.artifacts import JsonObject
from registry.errors import RegistryError

log = logging.getLogger("tuneline.ui.access")

SECONDS = 10.0
"""For each answer of the provider."""
_SIGNATURES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Made with a key of the provider's own. Those made with the client's secret, and none, are not believed."""


@dataclass(frozen=True)
class OidcSettings:
    """The provider, what it knows Tuneline as, and which values of which claim mean which role."""

    issuer: str
    client_id: str
    client_secret: str
    role_claim: str
    roles: Mapping[str, Role]

    @classmethod
    def of(cls, settings: Settings) -> OidcSettings | None:
        """From the environment; None where no issuer is named. Raises Usage naming what is missing."""
        secret = settings.oidc_client_secret
        variables = {
            "TUNELINE_OIDC_ISSUER": settings.oidc_issuer,
            "TUNELINE_OIDC_CLIENT_ID": settings.oidc_client_id,
            "TUNELINE_OIDC_CLIENT_SECRET": secret.get_secret_value() if secret else None,
            "TUNELINE_OIDC_ROLES": settings.oidc_roles,
        }
        if not any(variables.values()):
            return None
        if missing := [name for name, value in variables.items() if not value]:
            raise Usage(f"OpenID Connect needs {', '.join(missing)} too; unset the others to do without")
        issuer = str(settings.oidc_issuer)
        parts = urlsplit(issuer)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise Usage(
                f"TUNELINE_OIDC_ISSUER={issuer[:80]}: expected https://…, as the provider names itself"
            )
        return cls(
            issuer,
            str(settings.oidc_client_id),
            str(variables["TUNELINE_OIDC_CLIENT_SECRET"]),
            settings.oidc_role_claim,
            _roles(str(settings.oidc_roles)),
        )

    def role(self, claims: Mapping[str, Any]) -> Role | None:
        """The highest role that the claim's values stand for; None for nobody of ours.

        A claim with dots is looked up as it is, then step by step (`realm_access.roles`).
        """
        value: Any = claims.get(self.role_claim)
        if value is None:
            value = claims
            for part in self.role_claim.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        roles = [self.roles[v] for v in values if isinstance(v, str) and v in self.roles]
        return max(roles, key=ROLES.index, default=None)


class Provider:
    """One provider, asked for its addresses at the first sign-in."""

    def __init__(self, settings: OidcSettings, registry: Registry, callers: Callers, secure: bool) -> None:
        self.name = urlsplit(settings.issuer).netloc
        self._settings = settings
        self._registry = registry
        self._callers = callers
        self._scheme = "https" if secure else "http"
        self._oauth = OAuth()
        self._oauth.register(
            "provider",
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": "openid profile email",
                "code_challenge_method": "S256",
                "timeout": SECONDS,
                "trust_env": False,
            },
        )

    async def redirect(self, request: Request, after: str) -> Response:
        """Send the browser to the provider; what has to come back again is in a signed cookie."""
        client = self._oauth.provider
        try:
            await self._discover()
            request.scope["session"] = {"after": after}
            address = f"{self._scheme}://{request.headers.get('host', '')}/signin/oidc/callback"
            answer: Response = await client.authorize_redirect(request, address)
        except (httpx2.HTTPError, ValueError, KeyError, RuntimeError, AuthlibBaseError) as error:
            log.error("OpenID provider %s: %s", self.name, error)
            return Response(
                f"the OpenID provider {self.name} cannot be reached now; the log of `tuneline ui` says why\n",
                502,
                media_type="text/plain",
            )
        text = base64.urlsafe_b64encode(json.dumps(request.session).encode()).decode()
        self._callers.write(answer, "oidc", text)
        return answer

    async def identify(self, request: Request) -> tuple[str, str | None, str]:
        """(problem, the user's name or None, where to go): who came back from the provider."""
        kept = self._callers.read(request, "oidc")
        try:
            request.scope["session"] = json.loads(base64.urlsafe_b64decode(kept or ""))
        except (binascii.Error, ValueError):
            return "this sign-in was not begun in this browser, or too long ago: begin again", None, "/"
        after = str(request.session.get("after", "/"))
        try:
            await self._discover()
            claims = await self._claims(request)
        except (httpx2.HTTPError, ValueError, KeyError, RuntimeError, AuthlibBaseError, JoseError) as error:
            log.warning("OpenID provider %s: sign-in refused: %s", self.name, error)
            return f"{self.name} did not confirm who you are ({type(error).__name__})", None, "/"
        return await anyio.to_thread.run_sync(self._user, claims, after)

    async def _claims(self, request: Request) -> JsonObject:
        client = self._oauth.provider
        token = await client.authorize_access_token(request)
        claims = dict(token["userinfo"])  # of the ID token, whose signature and nonce Authlib has checked
        if self._settings.role(claims) is None and client.server_metadata.get("userinfo_endpoint"):
            more = dict(await client.userinfo(token=token))
            if more.get("sub") == claims["sub"]:  # OpenID Connect Core, section 5.3.2
                claims = more | claims
        return claims

    def _user(self, claims: JsonObject, after: str) -> tuple[str, str | None, str]:
        role = self._settings.role(claims)
        if role is None:
            message = (
                f"{self.name} confirmed who you are, but no value of your claim "
                f"{self._settings.role_claim!r} maps to a role here (TUNELINE_OIDC_ROLES): ask an admin"
            )
            return message, None, "/"
        identity = json.dumps([self._settings.issuer, str(claims["sub"])])
        try:
            user = self._registry.users.of_identity(identity, _name(claims), role)
        except RegistryError as error:
            return str(error), None, "/"
        return ("", user.name, after) if user else ("your account here was revoked: ask an admin", None, "/")

    async def _discover(self) -> None:
        metadata = await self._oauth.provider.load_server_metadata()
        if metadata.get("issuer") != self._settings.issuer:
            raise ValueError(
                f"it calls itself {metadata.get('issuer')!r}, but TUNELINE_OIDC_ISSUER is "
                f"{self._settings.issuer!r}"
            )
        known = metadata.get("id_token_signing_alg_values_supported", ["RS256"])
        metadata["id_token_signing_alg_values_supported"] = [name for name in known if name in _SIGNATURES]


def _name(claims: Mapping[str, Any]) -> str:
    """What the log of changes will call the person; only a confirmed e-mail address counts."""
    email = claims.get("email") if claims.get("email_verified") is True else None
    candidates = (email, claims.get("preferred_username"), claims["sub"])
    return next((text for text in candidates if isinstance(text, str) and NAME.fullmatch(text)), "")


def _roles(text: str) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for part in text.split(","):
        value, _, name = part.strip().rpartition("=")
        role = next((role for role in ROLES if role == name), None)
        if not value or role is None:
            raise Usage(
                f"TUNELINE_OIDC_ROLES: {part.strip()[:60]!r}: expected VALUE=ROLE, with a role of "
                f"{', '.join(ROLES)}, separated by commas"
            )
        roles[value] = role
    return roles
