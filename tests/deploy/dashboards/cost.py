"""What things cost, by the user's own rates."""

from __future__ import annotations

from tests.deploy.dashboards.builder import OF_CHANNEL, OF_TENANT, Board, graph

BOARD = Board(
    "Tuneline: cost",
    "By the prices of your own file of rates; what has no price is not shown.",
    (("channel", "tuneline_channel_generation"), ("tenant", "tuneline_tenant_day_tokens")),
    (
        graph(
            "A thousand tokens",
            "Engines up now for an hour, by the tokens of the last hour.",
            "short",
            ("tuneline_thousand_tokens_cost", "cost, {{currency}}"),
            ("tuneline_rate_thousand_tokens", "charged, {{currency}}"),
        ),
        graph(
            "Tenants today",
            "What their tokens cost them.",
            "short",
            (f"tuneline_tenant_day_cost{{{OF_TENANT}}}", "{{tenant}}, {{currency}}"),
        ),
        graph(
            "What is live",
            "All executions behind it.",
            "short",
            (f"tuneline_artifact_cost{{{OF_CHANNEL}}}", "{{channel}}, {{currency}}"),
        ),
        graph(
            "Runs",
            "Their stages; of the newest 20.",
            "short",
            ("sum by (recipe, currency) (tuneline_run_cost)", "{{recipe}}, {{currency}}"),
        ),
        graph(
            "Core hours",
            "Held by stages, since the registry exists.",
            "short",
            ("sum by (stage) (tuneline_stage_cpu_seconds_total) / 3600", "{{stage}}"),
        ),
        graph(
            "GPU hours",
            "Held by stages, since the registry exists.",
            "short",
            ("sum by (stage) (tuneline_stage_gpu_seconds_total) / 3600", "{{stage}}"),
        ),
        graph(
            "An hour of an engine",
            "Its price.",
            "short",
            ("tuneline_rate_engine_hour", "{{engine}}, {{currency}}"),
        ),
    ),
)
