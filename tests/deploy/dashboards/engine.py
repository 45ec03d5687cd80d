"""Whether each engine takes requests, and how full it is."""

from __future__ import annotations

from tests.deploy.dashboards.builder import OF_ENGINE, RATE, Board, graph, quantiles

BOARD = Board(
    "Tuneline: engines",
    "Whether each engine takes requests, and how full it is.",
    (("engine", "tuneline_engine_up"),),
    (
        graph(
            "Up",
            "1 while the engine takes requests.",
            "short",
            (f"tuneline_engine_up{{{OF_ENGINE}}}", "{{engine}}"),
        ),
        graph(
            "Restarts",
            "Within 15 minutes; more than 2 ring TunelineEngineRestarts.",
            "short",
            (f"increase(tuneline_engine_restarts_total{{{OF_ENGINE}}}[15m])", "{{engine}}"),
        ),
        graph(
            "Endpoints",
            "1 while the process of a single endpoint lives.",
            "short",
            ("tuneline_endpoint_up", "{{endpoint}} {{channel}}"),
        ),
        graph(
            "Requests inside",
            "Given to the engine and not answered.",
            "short",
            (f"tuneline_engine_requests{{{OF_ENGINE}}}", "{{engine}}"),
        ),
        graph(
            "Expected wait",
            "Of the next request.",
            "s",
            (f"tuneline_engine_expected_wait_seconds{{{OF_ENGINE}}}", "{{engine}}"),
        ),
        graph(
            "Requests under way",
            "At the gateway, of all engines.",
            "short",
            ("tuneline_gateway_requests_under_way", "{{instance}}"),
        ),
        graph(
            "Adapters",
            "Loaded, and places for them.",
            "short",
            (f"tuneline_engine_adapters{{{OF_ENGINE}}}", "{{engine}} loaded"),
            (f"tuneline_engine_adapter_slots{{{OF_ENGINE}}}", "{{engine}} places"),
        ),
        graph(
            "Adapter events",
            "Many evictions for few hits: too few places.",
            "ops",
            (
                f"sum by (engine, event) (rate(tuneline_engine_adapter_events_total{{{OF_ENGINE}}}[{RATE}]))",
                "{{engine}} {{event}}",
            ),
        ),
        graph(
            "The gateway's own time",
            "From a request's arrival to its going to the engine.",
            "s",
            *quantiles("tuneline_gateway_overhead_seconds", "", 0.5, 0.99),
        ),
        graph(
            "Time to the first token",
            "Of all tenants.",
            "s",
            *quantiles("tuneline_engine_time_to_first_token_seconds", "engine", 0.5, 0.95),
        ),
        graph(
            "Between two tokens",
            "Mean of each streamed answer.",
            "s",
            *quantiles("tuneline_engine_inter_token_seconds", "engine", 0.5, 0.95),
        ),
        graph(
            "Tokens of answers",
            "In a second, of all that it answers at once.",
            "short",
            (f"rate(tuneline_engine_completion_tokens_total{{{OF_ENGINE}}}[{RATE}])", "{{engine}}"),
        ),
        graph(
            "Tokens per second",
            "Written, by all engines.",
            "short",
            (f'sum(rate(tuneline_gateway_tokens_total{{kind="completion"}}[{RATE}]))', "tokens"),
        ),
        graph(
            "Shadow requests",
            "By what became of them.",
            "reqps",
            (f"sum by (outcome) (rate(tuneline_gateway_shadows_total[{RATE}]))", "{{outcome}}"),
        ),
    ),
)
