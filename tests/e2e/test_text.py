"""Raw text through the whole chain: prepared, packed, trained, merged, quantized, judged, served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Tuneline, states

Pico = tuple[Tuneline, dict[str, Any]]
RULE = (
    "{task: perplexity, metric: log_likelihood, role: improve, against: baseline, margin: 0.05, scores: real}"
)


def test_documents_are_learned_and_the_gate_judges_by_their_likelihood(pico: Pico, tmp_path: Path) -> None:
    tuneline, _ = pico
    source = tmp_path / "reports.jsonl"
    texts = [
        f"Report {n}. "
        + " ".join(f"River {n * k} by town {n + k} is warm." for k in range(4 + 12 * (n % 3 == 0)))
        for n in range(90)
    ]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = (
        "name=pico-text", f"prepare={{source: 'path:{source}', format: text, max_length: 64,"
        " near_duplicates: null, split: {validation: 0.1, test: 0.3}}",
        "train.packing=true", "train.max_steps=10", "train.batch_size=4", "train.evaluations=1",
        "evaluate.tasks=[{kind: perplexity}]", "ladder=null",
        f"gate.tasks=[{RULE}]", "gate.evidence={min_items: 8}", "promote.channel=pico/text",
    )  # fmt: skip
    run = tuneline.json("run", "pico-smoke", *(word for one in settings for word in ("--set", one)))
    assert run["exit_code"] == 0, run["stages"]
    assert states(run)["resolve base"] == "reused"
    assert run["gate"]["verdict"] == "pass"
    assert run["endpoint"]["answer"] is not None
    likelihoods = [row["scores"]["perplexity log_likelihood"] for row in run["models"]]
    base, tuned, merged, quantized = likelihoods
    assert base["high"] + 0.05 < tuned["low"], "it has learned the documents"
    assert abs(quantized["value"] - merged["value"]) < 0.05
    assert "nats per token" in json.dumps(run["models"])
    assert {row["scores"]["perplexity perplexity"]["n"] for row in run["models"]} == {base["n"]}
