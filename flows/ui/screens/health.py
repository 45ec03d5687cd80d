"""Health: what `tuneline doctor` finds, looked at in the background, so that the page is there at once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.doctor.examination import look
from flows.doctor.finding import Finding
from flows.settings import Settings
from flows.ui.changes import Form, changing
from flows.ui.pages import page


class Examination:
    """The latest look at this machine; at most one goes on."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self.findings: list[Finding] = []
        self.at: datetime | None = None
        self.problem: str | None = None

    @property
    def going_on(self) -> bool:
        return self._turn.locked()

    def start(self) -> None:
        """Look again, unless that goes on already."""
        if self._turn.acquire(blocking=False):
            threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        try:
            self.findings, self.problem = look(Settings()), None
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self.at = datetime.now(UTC)
            self._turn.release()


def _health(request: Request) -> Response:
    examination: Examination = request.app.state.examination
    if examination.at is None:
        examination.start()
    return page(request, "health.html", examination=examination)


def _again(request: Request, _form: Form) -> Response:
    request.app.state.examination.start()
    return RedirectResponse("/health", 303)


routes = [Route("/health", _health), changing("/health", _again, "operator")]
