"""What a tenant asks, how fast it is answered, and what it may still use."""

from __future__ import annotations

from tests.deploy.dashboards.builder import OF_TENANT, RATE, Board, graph, quantiles

BOARD = Board(
    "Tuneline: tenants",
    "What a tenant asks, how fast it is answered, and what it may still use.",
    (("tenant", "tuneline_gateway_requests_total"),),
    (
        graph(
            "Requests",
            "By status.",
            "reqps",
            (
                f"sum by (tenant, status) (rate(tuneline_gateway_requests_total{{{OF_TENANT}}}[{RATE}]))",
                "{{tenant}} {{status}}",
            ),
        ),
        graph(
            "Refused",
            "By reason.",
            "reqps",
            (
                f"sum by (tenant, reason) (rate(tuneline_gateway_rejections_total{{{OF_TENANT}}}[{RATE}]))",
                "{{tenant}} {{reason}}",
            ),
        ),
        graph(
            "By arm",
            "Live, or a candidate that is tried out.",
            "reqps",
            (f"sum by (arm) (rate(tuneline_gateway_requests_total{{{OF_TENANT}}}[{RATE}]))", "{{arm}}"),
        ),
        graph(
            "Tokens",
            "Of answered requests.",
            "short",
            (
                f"sum by (tenant, kind) (rate(tuneline_gateway_tokens_total{{{OF_TENANT}}}[{RATE}]))",
                "{{tenant}} {{kind}} per second",
            ),
        ),
        graph(
            "Time to the first token",
            "From a request's arrival to the first text of its answer.",
            "s",
            *quantiles("tuneline_gateway_time_to_first_token_seconds", "tenant", 0.5, 0.95),
        ),
        graph(
            "Between two tokens",
            "Mean of each streamed answer.",
            "s",
            *quantiles("tuneline_gateway_inter_token_seconds", "tenant", 0.5, 0.95),
        ),
        graph(
            "Whole requests",
            "From a request's arrival to the end of its answer.",
            "s",
            *quantiles("tuneline_gateway_request_seconds", "tenant", 0.5, 0.95),
        ),
        graph(
            "Tokens of today",
            "Used, reserved and allowed; a day is one in UTC.",
            "short",
            (f"tuneline_tenant_day_tokens{{{OF_TENANT}}}", "{{tenant}} {{state}}"),
            (f"tuneline_tenant_day_tokens_limit{{{OF_TENANT}}}", "{{tenant}} allowed"),
        ),
        graph(
            "Share of the day's tokens",
            "Over 0.9 rings TunelineBudgetNearlyUsed.",
            "percentunit",
            (
                f"sum by (tenant) (tuneline_tenant_day_tokens{{{OF_TENANT}}})"
                " / on (tenant) tuneline_tenant_day_tokens_limit",
                "{{tenant}}",
            ),
        ),
    ),
)
