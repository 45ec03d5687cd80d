"""The lineage of a run as a picture: artifacts from left to right, edges where one was made from another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flows.formatting import short
from flows.report.svg import picture_frame, svg_text

_BOX = (140.0, 44.0)
_COLUMN = 188.0
_ROW = 60.0
_MARGIN = 8.0
_SWEEPS = 6
_MODEL_RELATIONS = {"adapter", "merge", "quantized", "finetune"}


@dataclass(frozen=True)
class LineageNode:
    """An artifact: its id, its kind and what it is called in this run."""

    id: str
    kind: str
    label: str


@dataclass(frozen=True)
class LineageEdge:
    """`child` was made from `parent`, or with it, in the way `relation` says."""

    parent: str
    child: str
    relation: str


@dataclass(frozen=True)
class _Route:
    """An edge as the chain of grid points it runs through; the inner ones keep it clear of boxes."""

    edge: LineageEdge
    stops: tuple[str, ...]


def lineage_picture(
    nodes: Sequence[LineageNode],
    edges: Sequence[LineageEdge],
    address: Callable[[LineageNode], str] | None = None,
    here: str | None = None,
) -> str:
    """An SVG of the graph, laid out in columns (Sugiyama, Tagawa & Toda 1981: layers by longest path,
    order within a layer by barycentres, long edges routed through empty places). Edges for which
    `reads_rows` holds are told in the description only. With `address` each box is a link; the one of the
    artifact `here` has a class of its own.

    Raises ValueError where an edge names an unknown node or the edges run in a circle.
    """
    by_id = {node.id: node for node in nodes}
    for edge in edges:
        if missing := {edge.parent, edge.child} - by_id.keys():
            raise ValueError(f"a lineage edge names {short(missing.pop())}, which is not among the nodes")
    layer = _layers(list(by_id), edges)
    drawn = [edge for edge in edges if not reads_rows(edge, by_id)]
    routes = [_route(edge, layer, index) for index, edge in enumerate(drawn)]
    places = _places(by_id, layer, routes)
    width = 2 * _MARGIN + _COLUMN * max(layer.values(), default=0) + _BOX[0]
    height = 2 * _MARGIN + max((y for _, y in places.values()), default=0) + _BOX[1]
    curves = [_curve(route, places) for route in routes]
    boxes = [
        _linked(_box(node, *places[node.id], here=node.id == here), node, address) for node in by_id.values()
    ]
    description = "; ".join(_sentences(edges, by_id)) or "no artifact was made from another"
    # At its own size: a run that ended early has one box, which would fill the page.
    return picture_frame(
        "Lineage of the artifacts",
        description,
        width,
        height,
        "".join(curves + boxes),
        True,
        address is not None,
    )


def _sentences(edges: Sequence[LineageEdge], by_id: Mapping[str, LineageNode]) -> list[str]:
    return [
        f"{by_id[edge.child].label} from {by_id[edge.parent].label} ({edge.relation.replace('_', ' ')})"
        for edge in edges
    ]


def _linked(box: str, node: LineageNode, address: Callable[[LineageNode], str] | None) -> str:
    return box if address is None else f'<a href="{svg_text(address(node))}">{box}</a>'


def reads_rows(edge: LineageEdge, by_id: Mapping[str, LineageNode]) -> bool:
    """Whether an edge says which dataset an evaluation read: one per evaluation, too many to draw."""
    return by_id[edge.parent].kind == "dataset" and by_id[edge.child].kind == "evaluation"


def _layers(ids: Sequence[str], edges: Sequence[LineageEdge]) -> dict[str, int]:
    parents = defaultdict(set)
    for edge in edges:
        parents[edge.child].add(edge.parent)
    layer: dict[str, int] = {}
    left = list(ids)
    while left:
        ready = [node for node in left if parents[node] <= layer.keys()]
        if not ready:
            raise ValueError(
                f"the lineage runs in a circle through {', '.join(short(node) for node in left)}"
            )
        for node in ready:
            layer[node] = max((layer[parent] + 1 for parent in parents[node]), default=0)
        left = [node for node in left if node not in layer]
    return layer


def _route(edge: LineageEdge, layer: dict[str, int], index: int) -> _Route:
    between = range(layer[edge.parent] + 1, layer[edge.child])
    return _Route(edge, (edge.parent, *(f"edge {index} column {column}" for column in between), edge.child))


def _places(
    by_id: dict[str, LineageNode], layer: dict[str, int], routes: Sequence[_Route]
) -> dict[str, tuple[float, float]]:
    """Left upper corner of each box and each empty place, in SVG units."""
    columns: dict[int, list[str]] = defaultdict(list)
    for node in by_id:
        columns[layer[node]].append(node)
    beside: dict[str, list[str]] = defaultdict(list)
    for route in routes:
        for step, stop in enumerate(route.stops):
            if 0 < step < len(route.stops) - 1:
                columns[layer[route.edge.parent] + step].append(stop)
            beside[stop] += [*route.stops[step - 1 : step], *route.stops[step + 1 : step + 2]]
    rank = {stop: float(i) for column in columns.values() for i, stop in enumerate(column)}
    for sweep in range(_SWEEPS):
        for number in sorted(columns, reverse=sweep % 2 == 1):
            column = columns[number]
            column.sort(key=lambda stop: sum(rank[b] for b in beside[stop]) / (len(beside[stop]) or 1))
            for i, stop in enumerate(column):
                rank[stop] = i - (len(column) - 1) / 2
    tallest = max((_tall(column, by_id) for column in columns.values()), default=0.0)
    places = {}
    for number, column in columns.items():
        y = _MARGIN + (tallest - _tall(column, by_id)) / 2
        for stop in column:
            places[stop] = (_MARGIN + _COLUMN * number, y)
            y += _pitch(stop, by_id)
    return places


def _pitch(stop: str, by_id: dict[str, LineageNode]) -> float:
    return _ROW if stop in by_id else _ROW / 3


def _tall(column: Sequence[str], by_id: dict[str, LineageNode]) -> float:
    return sum(_pitch(stop, by_id) for stop in column)


def _curve(route: _Route, places: dict[str, tuple[float, float]]) -> str:
    wide, tall = _BOX
    (x, y), *others = (places[stop] for stop in route.stops)
    x, y = x + wide, y + tall / 2
    path = [f"M{x:.0f},{y:.0f}"]
    for step, (next_x, next_y) in enumerate(others):
        last = step == len(others) - 1
        next_y += tall / 2 if last else _ROW / 6
        bend = (next_x - x) / 2
        path.append(f"C{x + bend:.0f},{y:.0f} {next_x - bend:.0f},{next_y:.0f} {next_x:.0f},{next_y:.0f}")
        x, y = next_x, next_y
        if not last:
            x += wide
            path.append(f"H{x:.0f}")
    kind = "model" if route.edge.relation in _MODEL_RELATIONS else "data"
    relation = svg_text(route.edge.relation.replace("_", " "))
    return f'<path class="edge edge-{kind}" d="{" ".join(path)}"><title>{relation}</title></path>'


def _box(node: LineageNode, x: float, y: float, here: bool) -> str:
    wide, tall = _BOX
    label = node.label if len(node.label) <= 18 else node.label[:17] + "…"
    title = svg_text(f"{node.kind} {node.label}: {node.id}")
    return (
        f'<g class="node kind-{svg_text(node.kind)}{" here" * here}"><title>{title}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{tall:.0f}" rx="8"/>'
        f'<text class="node-label" x="{x + 10:.0f}" y="{y + 18:.0f}">{svg_text(label)}</text>'
        f'<text class="node-id" x="{x + 10:.0f}" y="{y + 34:.0f}">'
        f"{svg_text(node.kind)} {svg_text(node.id[:7])}</text></g>"
    )
