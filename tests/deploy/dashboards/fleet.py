"""What is live, whether it is what was decided, and how it fares."""

from __future__ import annotations

from tests.deploy.dashboards.builder import OF_CHANNEL, RATE, Board, graph, number, rows

BOARD = Board(
    "Tuneline: fleet",
    "What is live, whether it is what was decided, and how it fares.",
    (("channel", "tuneline_channel_generation"),),
    (
        number(
            "Alerts under way",
            "Of Tuneline's own rules.",
            "short",
            'count(ALERTS{alertname=~"Tuneline.*", alertstate="firing"}) or vector(0)',
        ),
        number(
            "Channels that drift",
            "Their engine serves another artifact than they point to.",
            "short",
            "sum(tuneline_channel_drift)",
        ),
        number(
            "Registry read",
            "Since the gateway last read its registry.",
            "s",
            "tuneline_gateway_registry_age_seconds",
        ),
        rows("What is live", "Each channel's artifact.", f"tuneline_channel_info{{{OF_CHANNEL}}}"),
        graph(
            "Requests",
            "At the gateway, by status.",
            "reqps",
            (f"sum by (status) (rate(tuneline_gateway_requests_total[{RATE}]))", "{{status}}"),
        ),
        graph(
            "Failures",
            "Share of the requests of 5 minutes that ended with a 5xx.",
            "percentunit",
            ("tuneline:gateway_failures:ratio_rate5m", "failed"),
        ),
        graph(
            "Requests of the last hour",
            "As the gateways wrote them into the registry.",
            "short",
            (f'tuneline_channel_hour_requests{{{OF_CHANNEL}, count="all"}}', "{{channel}} {{arm}}"),
            (f'tuneline_channel_hour_requests{{{OF_CHANNEL}, count="failed"}}', "{{channel}} {{arm}} failed"),
        ),
        graph(
            "Tokens of the last hour",
            "As the gateways wrote them into the registry.",
            "short",
            (f"tuneline_channel_hour_tokens{{{OF_CHANNEL}}}", "{{channel}} {{kind}}"),
        ),
        graph(
            "Rollouts",
            "Share of a candidate's traffic, while one is tried out.",
            "percent",
            (f"tuneline_channel_rollout_percent{{{OF_CHANNEL}}}", "{{channel}} {{arm}}"),
        ),
        graph(
            "Scores",
            "Of what is live, in its latest evaluation, with the 95 % interval.",
            "percentunit",
            (f"tuneline_channel_score{{{OF_CHANNEL}}}", "{{channel}} {{task}} {{metric}} {{bound}}"),
        ),
        graph(
            "Gate margins",
            "By how much what is live keeps a rule's limit, with confidence.",
            "short",
            (f"tuneline_channel_gate_margin{{{OF_CHANNEL}}}", "{{channel}} {{rule}}"),
        ),
        graph(
            "Age of the adapter",
            "Since what is live was last trained.",
            "s",
            (f'tuneline:channel_lineage_age:seconds{{{OF_CHANNEL}, kind="adapter"}}', "{{channel}}"),
        ),
        graph(
            "Drift",
            "1 where an engine serves another artifact than the channel points to.",
            "short",
            (f"tuneline_channel_drift{{{OF_CHANNEL}}}", "{{channel}} {{engine}}"),
        ),
        graph(
            "Moves",
            "Promotions and rollbacks of each channel since it exists.",
            "short",
            (f"tuneline_channel_generation{{{OF_CHANNEL}}}", "{{channel}}"),
        ),
        graph(
            "Gate decisions",
            "By verdict, since the registry exists.",
            "short",
            ("tuneline_gate_decisions_total", "{{verdict}}"),
        ),
    ),
)
