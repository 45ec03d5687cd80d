"""What a run shows in Prefect's own UI: tables of stages and scores, links to the report and the endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.artifacts import create_link_artifact, create_table_artifact

from flows.report.summary import Outcome, model_row
from flows.step import Run
from flows.wording import duration, short, size


@contextmanager
def shown_in_prefect(run: Run, outcome: Outcome) -> Iterator[None]:
    """Publish the tables when the block ends, also when it fails."""
    try:
        yield
    finally:
        stages = [
            {
                "stage": row.label,
                "state": row.state,
                "time": duration(row.seconds),
                "peak memory": size(row.peak_bytes),
                "artifact": short(row.artifact_id),
                "note": row.note,
            }
            for row in run.rows
        ]
        create_table_artifact(table=stages, key="stages", description="Stages of this run")
        models = [model_row(label, *pair) for label, pair in outcome.variants.items()]
        scores = [
            {"model": m.label, **{k: str(v) for k, v in m.scores.items()}, "size": size(m.bytes)}
            for m in models
        ]
        create_table_artifact(
            table=scores, key="scores", description="Each form of the model, 95 % intervals"
        )
        create_link_artifact(
            link=(run.folder / "report.html").as_uri(), link_text="HTML report", key="report"
        )
        if outcome.endpoint is not None:
            create_link_artifact(link=outcome.endpoint.url, link_text=outcome.endpoint.engine, key="endpoint")
