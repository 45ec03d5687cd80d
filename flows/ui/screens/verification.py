"""Read every byte of an artifact again, in the background, and say how far it is and how it ended."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from flows.ui.changes import Form, changing
from flows.ui.pages import registry_of
from registry import Artifact, Registry
from registry.errors import RegistryError

REMEMBERED = 100


@dataclass
class VerificationProgress:
    """One under way (`ended` is None) or done; `problems` in words, empty where all is as published."""

    size: int
    """Bytes to read."""
    started: datetime
    begun: bool = False
    """Whether it is its turn."""
    read: int = 0
    """Bytes that were read."""
    ended: datetime | None = None
    problems: tuple[str, ...] = ()

    @property
    def percent(self) -> int:
        """Of the bytes, rounded down: 100 only once all were read."""
        return min(100, 100 * self.read // self.size) if self.size else 100

    def heard(self, size: int) -> None:
        """So many more bytes were read."""
        self.read += size


class BackgroundVerifications:
    """The latest verification of each artifact, in this process; one at a time reads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: OrderedDict[str, VerificationProgress] = OrderedDict()
        self._turn = threading.Lock()
        self._reading = threading.Lock()

    def of(self, artifact_id: str) -> VerificationProgress | None:
        """The latest of this artifact."""
        return self._known.get(artifact_id)

    def progress(self) -> list[tuple[bool, int]]:
        """Differs once one begins, ends, or is a percent further."""
        with self._turn:
            known = list(self._known.values())
        return [
            (verification.ended is None, verification.percent if verification.begun else -1)
            for verification in known
        ]

    def start(self, artifact: Artifact) -> None:
        """Begin, unless one of this artifact is under way."""
        with self._turn:
            known = self._known.get(artifact.id)
            if known is not None and known.ended is None:
                return
            verification = VerificationProgress(artifact.size, datetime.now(UTC))
            self._known[artifact.id] = verification
            self._known.move_to_end(artifact.id)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        threading.Thread(target=self._verify, args=(artifact.id, verification), daemon=True).start()

    def _verify(self, artifact_id: str, verification: VerificationProgress) -> None:
        # said of what nobody expects: it has to end on the page too, or it could not be begun again
        problems: tuple[str, ...] = ("it broke off before all was read; the log of the pages says why",)
        try:
            with self._reading:
                verification.begun = True
                problems = tuple(map(str, self._registry.verify(artifact_id, verification.heard)))
        except (RegistryError, OSError) as error:
            problems = (str(error),)
        finally:
            verification.problems = problems
            verification.ended = datetime.now(UTC)


def verification_of(request: Request, artifact_id: str) -> VerificationProgress | None:
    """The latest verification that this process did of the artifact."""
    verifications: BackgroundVerifications = request.app.state.verifications
    return verifications.of(artifact_id)


def _verify(request: Request, _form: Form) -> Response:
    artifact = registry_of(request).get(request.path_params["id"])
    request.app.state.verifications.start(artifact)
    return RedirectResponse(f"/artifacts/{artifact.id}#verify", 303)


routes = [changing("/artifacts/{id}/verify", _verify, "operator")]
