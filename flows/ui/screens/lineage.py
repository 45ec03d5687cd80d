"""An artifact's lineage in both directions, as a picture that one can walk."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, select

from flows.report.lineage_picture import LineageEdge, LineageNode, lineage_picture
from flows.ui.screens.fleet import names_of
from registry.api import queries
from registry.db.tables import artifacts

DEPTH, EDGES = 64, 1000
DRAWN = 250
"""Most boxes of a picture; the nearest come first."""


def lineage_graph(connection: Connection, artifact_id: str) -> str:
    """An SVG with a link per artifact; of more than `DRAWN` artifacts the nearest."""
    up = queries.lineage(connection, artifact_id, "up", DEPTH, EDGES)
    down = queries.lineage(connection, artifact_id, "down", DEPTH, EDGES)
    distance = {node.id: node.depth for node in (*down.nodes, *up.nodes)}
    drawn = sorted(distance, key=lambda id_: distance[id_])[:DRAWN]
    rows = {row.id: row for row in connection.execute(_described(drawn))}
    called = names_of(connection, drawn)
    nodes = [LineageNode(id_, rows[id_].kind, called.get(id_) or _label(rows[id_])) for id_ in drawn]
    links = {(edge.parent, edge.child, edge.relation) for edge in (*up.edges, *down.edges)}
    edges = [
        LineageEdge(parent, child, relation)
        for parent, child, relation in sorted(links)
        if parent in rows and child in rows and relation not in ("tokenized_for", "compared_with")
    ]
    return lineage_picture(nodes, edges, address=lambda node: f"/artifacts/{node.id}", here=artifact_id)


def _described(ids: list[str]) -> Any:
    columns = (artifacts.c.id, artifacts.c.kind, artifacts.c.stage, artifacts.c.quant_method)
    return select(*columns, artifacts.c.quant_requested).where(artifacts.c.id.in_(ids))


def _label(row: Row[Any]) -> str:
    if row.kind != "quantized":
        return str(row.stage)
    requested = json.loads(row.quant_requested or "{}")
    form = requested.get("type") or (f"{requested['bits']} bit" if "bits" in requested else "")
    return f"{row.quant_method} {form}".strip()
