"""Who signs in to the pages, made once: Alertmanager, which passes alerts on, and an admin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.stack.databases import write_private
from flows.stack.programs import Places
from flows.stack.tenant import tuneline

ALERTMANAGER, ADMIN = "alertmanager", "admin"


def prepare(places: Places, environment: Mapping[str, str]) -> Path | None:
    """Make what is missing; returns the file with the admin's token, None where others are the admins, or
    the token was not kept. Raises Usage."""
    users = {user["name"]: user for user in tuneline(environment, "users", "ls") if user["revoked"] is None}
    token = places.folder / "admin-token"
    is_kept = ADMIN in users and token.is_file()
    if not any(user["role"] == "admin" for user in users.values()):
        _add(environment, ADMIN, "admin", token)
        is_kept = True
    if ALERTMANAGER not in users or not places.alertmanager_token.is_file():
        if ALERTMANAGER in users:
            tuneline(environment, "users", "revoke", ALERTMANAGER)
        _add(environment, ALERTMANAGER, "operator", places.alertmanager_token)
    return token if is_kept else None


def _add(environment: Mapping[str, str], name: str, role: str, file: Path) -> None:
    write_private(file, tuneline(environment, "users", "add", name, "--role", role)["token"] + "\n")
