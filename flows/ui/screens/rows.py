"""A prepared dataset's rows: as written, as the model sees them, what was rejected, and what they hold."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.run.dataset_rows import SPLITS, matching, rendered
from flows.ui.pages import link_to, page, registry_of
from registry import Artifact, Registry
from registry.errors import NotFound
from stages.data.source_row import Reject

if TYPE_CHECKING:
    from stages.data.report.report import DataReport

ROWS = 20


def _rows(request: Request) -> Response:
    registry = registry_of(request)
    artifact = _dataset(registry, request.path_params["id"])
    split = _split(request, artifact)
    start, text = _start(request), request.query_params.get("q", "").strip()
    context: dict[str, Any] = {"rejects": [], "chats": [], "total": 0}
    if split == "rejected":
        rejects = _rejects(registry, artifact, text)
        context = {**context, "rejects": rejects[start : start + ROWS], "total": len(rejects)}
    else:
        chats, total = matching(registry.view(artifact.id) / f"{split}.parquet", text, start, ROWS)
        context = {**context, "chats": chats, "total": total}
    parameters = {"split": split, "q": text}
    link = link_to(f"/artifacts/{artifact.id}/rows/rendered", **parameters, **{"from": start})
    older = link_to(f"/artifacts/{artifact.id}/rows", **parameters, **{"from": start + ROWS})
    return page(
        request,
        "rows.html",
        artifact=artifact,
        metrics=artifact.manifest.metrics,
        split=split,
        splits=[name for name in SPLITS if f"{name}.parquet" in artifact.manifest.files],
        text=text,
        start=start,
        rendered=link,
        older=older if start + ROWS < context["total"] else None,
        **context,
    )


def _rendered(request: Request) -> Response:
    """The same chats through the base's own chat template, by the code that trains."""
    registry = registry_of(request)
    artifact = _dataset(registry, request.path_params["id"])
    split, start, text = _split(request, artifact), _start(request), request.query_params.get("q", "").strip()
    base = next((p.id for p in artifact.manifest.parents if p.relation == "tokenized_for"), None)
    if base is None or split == "rejected":
        raise NotFound("these rows have no tokenizer to be rendered with")
    rows, _ = matching(registry.view(artifact.id) / f"{split}.parquet", text, start, ROWS)
    chats = rendered(registry.view(base), [row["messages"] for row in rows])
    return page(request, "rendered.html", artifact=artifact, chats=chats, start=start)


def _report(request: Request) -> Response:
    """The page at once; what takes seconds to read comes after it."""
    artifact = _dataset(registry_of(request), request.path_params["id"])
    return page(request, "data_report.html", artifact=artifact, report=None)


def _read_report(request: Request) -> Response:
    registry = registry_of(request)
    artifact = _dataset(registry, request.path_params["id"])
    return page(request, "data_report.html", artifact=artifact, report=_examined(registry.view(artifact.id)))


@lru_cache(maxsize=16)
def _examined(folder: Path) -> DataReport:
    """What an artifact's files hold, which never changes."""
    from stages.data.report.report import report

    return report(folder)


def _dataset(registry: Registry, ref: str) -> Artifact:
    artifact = registry.get(ref)
    if artifact.manifest.kind != "dataset":
        raise NotFound(f"{artifact.id[:12]} is a {artifact.manifest.kind}: only datasets have rows")
    return artifact


def _split(request: Request, artifact: Artifact) -> str:
    split = request.query_params.get("split", "train")
    if split != "rejected" and f"{split}.parquet" not in artifact.manifest.files:
        raise HTTPException(404, f"this dataset has no split {split[:40]!r}")
    return split


def _start(request: Request) -> int:
    start = request.query_params.get("from", "0")
    if not start.isascii() or not start.isdigit() or len(start) > 9:
        raise HTTPException(404, "there are no such rows; start at the first")
    return int(start)


def _rejects(registry: Registry, artifact: Artifact, text: str) -> list[Reject]:
    if "rejects.jsonl" not in artifact.manifest.files:
        return []
    lines = (registry.view(artifact.id) / "rejects.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines if text.lower() in line.decode().lower()]


routes = [
    Route("/artifacts/{id}/rows", _rows),
    Route("/artifacts/{id}/rows/rendered", _rendered),
    Route("/artifacts/{id}/report", _report),
    Route("/artifacts/{id}/report/read", _read_report),
]
