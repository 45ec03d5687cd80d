"""What a schedule says: recipe, for whom, triggers and limits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from registry.artifacts import Record

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
WINDOW = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]")
ASKED = ("manual", "webhook", "drift")
"""Triggers that somebody pulls: a person, a program with the token, a measure of drift."""


class Cron(Record):
    """At these times: five fields, in the schedule's time zone."""

    on: Literal["cron"] = "cron"
    at: str


class NewRows(Record):
    """When a target's source has so many rows more than its last run saw, or so much more in shares of it."""

    on: Literal["rows"] = "rows"
    count: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_them(self) -> NewRows:
        if (self.count is None) == (self.share is None):
            raise ValueError("new rows: give a count or a share, one of them")
        return self


class NewBase(Record):
    """When the base's source is another commit, or other files, than at a target's last run."""

    on: Literal["base"] = "base"


class Asked(Record):
    """When it is asked for, with the schedule's token (`webhook`) or by a measure (`drift`)."""

    on: Literal["webhook", "drift"]


Trigger = Annotated[Cron | NewRows | NewBase | Asked, Field(discriminator="on")]


class ScheduleLimits(Record):
    """How much at once, when, at what price, and how long to wait after failures."""

    at_once: int = Field(default=1, ge=1, le=1000)
    """Runs of this schedule at one time, on all machines together."""
    per_device: bool = True
    """One run for each GPU of a machine, for each machine without one; with those of other schedules."""
    window: str | None = None
    """HH:MM-HH:MM in the schedule's time zone: runs begin within it only."""
    night_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Hours of computing in one night, from noon to noon; then nothing more begins."""
    night_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The same in money, by `TUNELINE_RATES`."""
    back_off_minutes: int = Field(default=60, ge=0, le=10_080)
    """After a failure; doubles with each further one, up to a day."""

    @field_validator("window")
    @classmethod
    def _two_times(cls, value: str | None) -> str | None:
        if value is not None and not WINDOW.fullmatch(value):
            raise ValueError(f"expected two times of day, for example 22:00-06:00, found {value[:40]!r}")
        return value


class OwnRecipe(Record):
    """What one channel is made by, and in words how that differs from what made it before."""

    recipe: dict[str, Any]
    what: str
    """`keep`, `replay` or `merge-only`."""
    why: str


class Definition(Record):
    """All that a schedule says. `overrides` may hold {tenant}, {channel}, {team} and {name}."""

    recipe_name: str
    recipe: dict[str, Any]
    """The recipe as it was when the schedule was written."""
    own: dict[str, OwnRecipe] = Field(default_factory=dict)
    """Channel → the recipe that it has instead: of an upgrade of bases, each channel's."""
    overrides: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    tenants: str | None = None
    """Pattern of tenants' names, as in a shell; each tenant's own channel is retrained."""
    triggers: tuple[Trigger, ...] = ()
    zone: str = "UTC"
    limits: ScheduleLimits = ScheduleLimits()

    @model_validator(mode="after")
    def _for_somebody(self) -> Definition:
        if self.channels and self.tenants is not None:
            raise ValueError("give channels or a pattern of tenants, not both")
        return self

    @field_validator("channels")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a channel is given twice")
        return value
