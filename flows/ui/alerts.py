"""What Alertmanager sends to `/alerts`: told to webhooks, and kept for the fleet page while it lasts.

It comes with the token of a user who is an operator. What is under way is kept in the home, so that it
outlives a restart of the pages.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.ui.changes import read_operators_body
from flows.ui.pages import registry_of
from registry import Registry
from registry.artifacts import JsonObject

log = logging.getLogger("tuneline.webhooks")

MOST_BYTES = 1_000_000
MOST_UNDER_WAY = 500
FORGOTTEN_AFTER = 86_400.0
"""Seconds after which an alert is forgotten that Alertmanager, which repeats what lasts, did not repeat."""
_SCREENS = (("channel", "/channels/"), ("tenant", "/tenants/"), ("endpoint", "/engines/"))


@dataclass(frozen=True)
class Alert:
    """One alert: `status` is firing or resolved, `started` in ISO 8601 with a time zone."""

    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    started: str

    @property
    def summary(self) -> str:
        """What it says, or else its name."""
        return self.annotations.get("summary") or self.labels.get("alertname", "an alert")

    @property
    def at(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.started)

    @property
    def address(self) -> str:
        """The screen of what it is about."""
        for label, screen in _SCREENS:
            if self.labels.get(label):
                return screen + quote(self.labels[label])
        return "/runs" if "recipe" in self.labels else "/health"


class _Kept(TypedDict):
    alert: JsonObject
    heard: float
    """Seconds since the epoch."""


class UnderWay:
    """The alerts that fire, as Alertmanager last said. For several threads of one process."""

    def __init__(self, home: Path) -> None:
        self._file = home / "alerts.json"
        self._turn = threading.Lock()

    def ls(self) -> list[Alert]:
        """The latest first."""
        alerts = [Alert(**kept["alert"]) for kept in self._read().values()]
        return sorted(alerts, key=lambda alert: alert.at, reverse=True)

    def take(self, alerts: list[Alert]) -> None:
        """Keep what fires, drop what is resolved. Raises OSError where that cannot be written."""
        with self._turn:
            kept = self._read()
            for alert in alerts:
                key = json.dumps(sorted(alert.labels.items()))
                if alert.status == "firing":
                    kept[key] = {"alert": asdict(alert), "heard": time.time()}
                else:
                    kept.pop(key, None)
            if len(kept) > MOST_UNDER_WAY:
                log.error("%d alerts are under way; the fleet shows %d", len(kept), MOST_UNDER_WAY)
            draft = self._file.with_name(f".alerts.{os.getpid()}")
            draft.write_text(json.dumps(dict(list(kept.items())[-MOST_UNDER_WAY:])), encoding="utf-8")
            draft.replace(self._file)

    def _read(self) -> dict[str, _Kept]:
        try:
            kept: dict[str, _Kept] = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:  # Alertmanager repeats what lasts
            log.error("%s was lost in a crash; it is written anew", self._file)
            return {}
        recent = time.time() - FORGOTTEN_AFTER
        return {key: alert for key, alert in kept.items() if alert["heard"] >= recent}


async def _alerts(request: Request) -> Response:
    """Take what Alertmanager sends (version 4 of its webhook's JSON); each alert is told once."""
    too_large = f"the alerts are larger than {MOST_BYTES} bytes"
    alerts = _parsed(await read_operators_body(request, MOST_BYTES, too_large))
    try:
        await anyio.to_thread.run_sync(request.app.state.alerts.take, alerts)
    except OSError as error:  # Alertmanager sends them again
        raise HTTPException(503, f"the alerts cannot be kept: {error.strerror}") from None
    deliveries = await anyio.to_thread.run_sync(_tell, registry_of(request), alerts)
    return JSONResponse({"alerts": len(alerts), "deliveries": deliveries})


def _parsed(body: bytes) -> list[Alert]:
    try:
        return [_alert(alert) for alert in json.loads(body)["alerts"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = "expected the JSON that Alertmanager sends to a webhook: an object with `alerts`"
        raise HTTPException(422, message) from None


def _alert(sent: Mapping[str, Any]) -> Alert:
    labels = {str(name): str(value) for name, value in sent["labels"].items()}
    annotations = {str(name): str(value) for name, value in sent.get("annotations", {}).items()}
    alert = Alert(str(sent["status"]), labels, annotations, str(sent["startsAt"]))
    # half a character could be kept, but no page could be sent with it: that is a ValueError
    "".join([alert.status, *labels, *labels.values(), *annotations, *annotations.values()]).encode()
    if alert.at.tzinfo is None:
        raise ValueError("a time without its zone")
    return alert


def _tell(registry: Registry, alerts: list[Alert]) -> int:
    return sum(
        registry.webhooks.tell(
            "alert", asdict(alert), json.dumps([alert.status, alert.labels, alert.started])
        )
        for alert in alerts
    )


routes = [Route("/alerts", _alerts, methods=["POST"])]
