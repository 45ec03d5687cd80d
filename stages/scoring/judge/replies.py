"""What judges replied before, each by the digest of all that decides a reply."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.artifacts import digest

Request = Mapping[str, Any]
"""Judge, message, schema, seed and lengths: all that decides a reply."""


class Replies:
    """A folder of replies. Several processes may use it at once; losing it costs time and nothing else."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: default `judge` in the folder for what can be made again, as `TUNELINE_CACHE` says."""
        self.folder = folder or _cache() / "judge"

    def find(self, request: Request) -> str | None:
        """The reply to this very request; None where there is none that can be read."""
        try:
            kept = json.loads(self._file(request).read_text("utf-8"))
            same = digest(kept["request"]) == digest(request)
            return kept["reply"] if same and isinstance(kept["reply"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, request: Request, reply: str) -> None:
        """Write it down; a folder that cannot be written is none."""
        file = self._file(request)
        draft = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.parent.mkdir(mode=0o700, exist_ok=True)
            draft.write_text(json.dumps({"request": request, "reply": reply}), "utf-8")
            draft.replace(file)

    def _file(self, request: Request) -> Path:
        name = digest(request)
        return self.folder / name[:2] / f"{name}.json"


def _cache() -> Path:
    """As `flows.settings` has it, which stands above the stages."""
    standard = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tuneline"
    return Path(os.environ.get("TUNELINE_CACHE") or standard).expanduser()
