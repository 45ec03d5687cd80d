"""Who signs in to the pages, made once: Alertmanager, which passes alerts on, and an admin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.stack.databases import write_private
from flows.stack.programs import Places
from flows.stack.tenant import tuneline

ALERTMANAGER, ADMIN = "alertmanager", "admin"


def prepare(places: Places, environment: Mapping[str, str]) -> Path:
    """Make what is missing; returns the file with the admin's token, which is not there where others made
    the admins. Raises Usage."""
    users = [user for user in tuneline(environment, "users", "ls") if user["revoked"] is None]
    admin = places.folder / "admin-token"
    if not any(user["role"] == "admin" for user in users):
        _add(environment, ADMIN, "admin", admin)
    if not places.alertmanager_token.is_file():
        if ALERTMANAGER in (user["name"] for user in users):
            tuneline(environment, "users", "revoke", ALERTMANAGER)
        _add(environment, ALERTMANAGER, "operator", places.alertmanager_token)
    return admin


def _add(environment: Mapping[str, str], name: str, role: str, file: Path) -> None:
    write_private(file, tuneline(environment, "users", "add", name, "--role", role)["token"] + "\n")
