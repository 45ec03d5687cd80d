"""The home that a command works in. One that is not there is said; none is made in silence."""

from __future__ import annotations

from flows.errors import Usage
from flows.run.readers import remark
from flows.settings import Settings
from registry import Registry


def home() -> Settings:
    """The settings of a home that is there. Raises `Usage` naming it, and how to name another."""
    settings = Settings()
    if not is_there(settings):
        where = "TUNELINE_HOME names it" if settings.named else "set TUNELINE_HOME to use another one"
        raise Usage(
            f"there is no registry in {settings.root} ({where}); `tuneline run RECIPE` makes one, and in or "
            "below the folder where that was done, it is found by itself"
        )
    return settings


def made_home() -> Settings:
    """The settings of a home that may be new; a new one is said on standard error."""
    settings = Settings()
    if not is_there(settings):
        remark(f"tuneline: making a new registry in {settings.root}")
    elif settings.found_above:
        remark(f"tuneline: the registry is {settings.root}, found above this folder")
    return settings


def is_there(settings: Settings) -> bool:
    """Whether the home holds a registry, or a database elsewhere does."""
    return settings.database_url is not None or (settings.root / "registry.db").is_file()


def open_registry(make: bool = False) -> Registry:
    """The registry that the settings name. `make`: also a new one, for what puts something into it."""
    settings = made_home() if make else home()
    return Registry.open(
        settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
    )
