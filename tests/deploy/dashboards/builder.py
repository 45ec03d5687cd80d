"""A dashboard in Grafana's own typed builder.

A dashboard is its variables and its panels in rows of three; a panel is a title with what it means, a unit
as Grafana names it, and queries with their legends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "$__rate_interval"
HEIGHT, THIRD = 8, 8


@dataclass(frozen=True)
class Panel:
    """`queries`: expression and legend; `kind`: over time, the number of now, or a table of now's labels."""

    title: str
    text: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "graph"


@dataclass(frozen=True)
class Board:
    """`variables`: label and the metric whose values are offered."""

    title: str
    text: str
    variables: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


def graph(title: str, text: str, unit: str, *queries: tuple[str, str]) -> Panel:
    return Panel(title, text, unit, queries)


def number(title: str, text: str, unit: str, query: str, legend: str = "") -> Panel:
    return Panel(title, text, unit, ((query, legend),), "number")


def rows(title: str, text: str, query: str) -> Panel:
    return Panel(title, text, "short", ((query, ""),), "table")


def quantiles(metric: str, by: str, *of: float) -> tuple[tuple[str, str], ...]:
    """Quantiles of a histogram of the gateway, for what the variable `by` chooses, or for all."""
    chosen = f'{{{by}=~"${by}"}}' if by else ""
    return tuple(
        (f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{chosen}[{RATE}])))", f"p{q * 100:g}")
        for q in of
    )


OF_CHANNEL, OF_TENANT, OF_ENGINE = 'channel=~"$channel"', 'tenant=~"$tenant"', 'engine=~"$engine"'
OF_RECIPE = 'recipe=~"$recipe"'


def text_of(name: str, board: Board) -> str:
    """The dashboard as Grafana imports it."""
    made = builders.Dashboard(board.title).uid(f"tuneline-{name}").description(board.text)
    made = made.tags(["tuneline"]).timezone("utc").refresh("30s").time("now-6h", "now").readonly()
    made = made.with_variable(_prometheus())
    for label, metric in board.variables:
        made = made.with_variable(_variable(label, metric))
    for panel in board.panels:
        made = made.with_panel(_KINDS[panel.kind](panel))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"


def _prometheus() -> builders.DatasourceVariable:
    return builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _variable(label: str, metric: str) -> builders.QueryVariable:
    variable = builders.QueryVariable(label).label(label).query(f"label_values({metric}, {label})")
    variable = variable.datasource(SOURCE).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    everything = models.VariableOption(text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def _graph(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.text).unit(panel.unit).axis_soft_min(0)
    for query in _queries(panel):
        made = made.with_target(query.range())
    return made.datasource(SOURCE).height(HEIGHT).span(THIRD)


def _number(panel: Panel) -> stat.Panel:
    made = stat.Panel().title(panel.title).description(panel.text).unit(panel.unit)
    for query in _queries(panel):
        made = made.with_target(query.instant())
    return made.datasource(SOURCE).height(HEIGHT).span(THIRD)


def _table(panel: Panel) -> table.Panel:
    made = table.Panel().title(panel.title).description(panel.text).unit(panel.unit)
    for query in _queries(panel):
        made = made.with_target(query.instant().format(PromQueryFormat.TABLE))
    return made.datasource(SOURCE).height(HEIGHT).span(THIRD)


_KINDS: dict[str, Callable[[Panel], timeseries.Panel | stat.Panel | table.Panel]] = {
    "graph": _graph,
    "number": _number,
    "table": _table,
}


def _queries(panel: Panel) -> Iterator[prometheus.Dataquery]:
    for letter, (expression, legend) in zip("ABCDEF", panel.queries, strict=False):
        query = prometheus.Dataquery().expr(expression).ref_id(letter).datasource(SOURCE)
        yield query.legend_format(legend) if legend else query
