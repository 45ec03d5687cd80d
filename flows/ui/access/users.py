"""The screens of users: who may look and who may change; a new token is shown once."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.access.caller import Caller
from flows.ui.changes import Form, changing, require, who
from flows.ui.pages import page, registry_of
from registry.access.users import ROLES
from registry.errors import Conflict, Corrupt

MAY = {
    "viewer": "looks",
    "operator": "looks, moves channels, rolls out, runs",
    "admin": "all that, and tenants, users, webhooks, store",
}
EVENTS_SHOWN = 30


def _users(request: Request) -> Response:
    require(request, "admin")
    users = registry_of(request).users.ls()
    users.sort(key=lambda user: user.revoked is not None)
    return page(request, "users.html", users=users, may_do=MAY)


def _user(request: Request) -> Response:
    require(request, "admin")
    return _shown(request, request.path_params["name"])


def _shown(request: Request, name: str, token: str | None = None) -> Response:
    users = registry_of(request).users
    user = users.get(name)
    try:
        events = [event for event in reversed(users.audit()) if event.subject == f"user {name}"]
        problem = ""
    except Corrupt as error:  # the user can be revoked all the same
        events, problem = [], str(error)
    return page(
        request,
        "user.html",
        shown=user,
        token=token,
        events=events[:EVENTS_SHOWN],
        problem=problem,
        roles=ROLES,
        may_do=MAY,
        oneself=_is_oneself(request, name),
    )


def _add(request: Request, form: Form) -> Response:
    name, role, users = form.get("name", "").strip(), form.get("role", ""), registry_of(request).users
    caller: Caller = request.scope["state"]["user"]
    if caller.kind == "local" and role in ROLES and role != "admin":
        raise Conflict(
            f"the first account has to be an admin's: once {name[:80]} exists, the link that you came with "
            "is over, and nobody could add another account here"
        )
    _, token = users.add(name, role, who(request))
    return _shown(request, name, token)


def _role(request: Request, form: Form) -> Response:
    name = _another(request)
    registry_of(request).users.change_role(name, form.get("role", ""), who(request))
    return RedirectResponse(f"/users/{quote(name)}", 303)


def _revoke(request: Request, _form: Form) -> Response:
    name = _another(request)
    registry_of(request).users.revoke(name, who(request))
    return RedirectResponse(f"/users/{quote(name)}", 303)


def _another(request: Request) -> str:
    """The user of the address. Raises Conflict for oneself: nobody locks themselves out by a click."""
    name: str = request.path_params["name"]
    if _is_oneself(request, name):
        raise Conflict(
            f"{name} is the account that you are signed in with: another admin can do this, and so can "
            "`tuneline users` on the machine"
        )
    return name


def _is_oneself(request: Request, name: str) -> bool:
    caller: Caller = request.scope["state"]["user"]
    return caller.kind != "local" and caller.name == name


routes = [
    Route("/users", _users),
    Route("/users/{name}", _user),
    changing("/users", _add, "admin"),
    changing("/users/{name}/role", _role, "admin"),
    changing("/users/{name}/revoke", _revoke, "admin"),
]
