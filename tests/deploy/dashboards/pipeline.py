"""What makes artifacts: runs, stages, gates, the store."""

from __future__ import annotations

from tests.deploy.dashboards.builder import OF_RECIPE, Board, graph, number, rows

BOARD = Board(
    "Tuneline: pipeline",
    "What makes artifacts: runs, stages, gates, the store.",
    (("recipe", "tuneline_recipe_run_timestamp_seconds"),),
    (
        graph("Runs", "That this home remembers, by state.", "short", ("tuneline_runs", "{{state}}")),
        rows("Latest run of each recipe", "Its state.", f"tuneline_recipe_run_state{{{OF_RECIPE}}} == 1"),
        number(
            "Since the latest run began",
            "Of each recipe.",
            "s",
            f"time() - tuneline_recipe_run_timestamp_seconds{{{OF_RECIPE}}}",
            "{{recipe}}",
        ),
        graph(
            "Time of a run",
            "The latest finished one.",
            "s",
            (f"tuneline_recipe_run_seconds{{{OF_RECIPE}}}", "{{recipe}}"),
        ),
        graph(
            "Time of its steps",
            "A step that was known already took none.",
            "s",
            (f"tuneline_recipe_stage_seconds{{{OF_RECIPE}}}", "{{recipe}} {{step}}"),
        ),
        graph(
            "Largest memory",
            "Of an execution of each stage.",
            "bytes",
            ("max by (stage) (tuneline_stage_peak_bytes)", "{{stage}}"),
        ),
        graph(
            "Executions",
            "By stage, since the registry exists.",
            "short",
            ("sum by (stage) (tuneline_stage_executions_total)", "{{stage}}"),
        ),
        graph(
            "Time spent",
            "By stage and host, since the registry exists.",
            "s",
            ("sum by (stage, host) (tuneline_stage_seconds_total)", "{{stage}} {{host}}"),
        ),
        graph("Artifacts", "Published, by kind.", "short", ("tuneline_registry_artifacts", "{{kind}}")),
        graph(
            "Gate decisions",
            "By verdict, since the registry exists.",
            "short",
            ("tuneline_gate_decisions_total", "{{verdict}}"),
        ),
        graph("The store", "Bytes of its files.", "bytes", ("tuneline_store_bytes", "stored")),
        graph(
            "The store's disk",
            "Share that is free; below 0.1 rings TunelineDiskLow.",
            "percentunit",
            ("tuneline:store_disk_free:ratio", "free {{instance}}"),
        ),
        graph(
            "Verified",
            "Artifacts by what their latest verification found.",
            "short",
            ("tuneline_verify_artifacts", "{{outcome}}"),
        ),
        number(
            "Since the latest verification",
            "Of any artifact, on the exporter's machine.",
            "s",
            "time() - tuneline_verify_timestamp_seconds",
        ),
        graph(
            "Reading the registry",
            "How long a scrape of `tuneline metrics` took.",
            "s",
            ("tuneline_registry_read_seconds", "{{instance}}"),
        ),
    ),
)
