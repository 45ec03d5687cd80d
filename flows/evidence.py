"""Evidence for a gate: one evaluation as it was logged, with every reason not to believe it.

Reads what the evaluate stage wrote (`results.json`, `samples_*.jsonl`); needs no torch and no lm-eval.
A broken file does not raise: it becomes a problem that the gate answers with `invalid`, so that a
missing or damaged evaluation can never let anything through.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskEvidence(Record):
    """The logged items of one task: `scores[metric][item]`, the item being a sha256, never a position."""

    setting: dict[str, Any] = Field(
        description="what must be equal for a comparison: config, few-shot, limit"
    )
    prompts: dict[str, str] = Field(description="item → sha256 of the prompt the model saw")
    scores: dict[str, dict[str, float]]


class Evidence(Record):
    """One evaluation. `problems` not empty: no verdict but `invalid` can rest on it."""

    artifact_id: str
    digest: str = Field(description="sha256 over the files that were read")
    subject: str | None = Field(default=None, description="id of the artifact that was measured")
    setting: dict[str, Any] = Field(default_factory=dict, description="harness, seed, chat template")
    bytes: int | None = None
    bits_per_weight: float | None = None
    tasks: dict[str, TaskEvidence] = Field(default_factory=dict)
    problems: tuple[str, ...] = ()


def load_evidence(path: Path, artifact_id: str) -> Evidence:
    """Read the evaluation in `path`. Never raises for what is in it; see `Evidence.problems`."""
    try:
        raw = (path / "results.json").read_bytes()
        results = json.loads(raw, parse_constant=_refuse_constant)
        read = _Reader(path, raw)
        tasks = {name: read.task(name, said) for name, said in results["tasks"].items()}
        model = results["model"]
        if not tasks:
            read.problems.append("the evaluation holds no task")
        return Evidence(
            artifact_id=artifact_id,
            digest=read.hash.hexdigest(),
            subject=model["subject"],
            setting={key: results[key] for key in ("harness", "seed", "chat_template")},
            bytes=model["bytes"],
            bits_per_weight=model["bits_per_weight"],
            tasks=tasks,
            problems=tuple(read.problems),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"results.json of {artifact_id[:12]} cannot be used ({type(error).__name__}: {error})"
        return Evidence(artifact_id=artifact_id, digest=hashlib.sha256().hexdigest(), problems=(problem,))


class _Reader:
    def __init__(self, path: Path, results: bytes) -> None:
        self.path = path
        self.problems: list[str] = []
        self.hash = hashlib.sha256(results)

    def task(self, name: str, said: dict[str, Any]) -> TaskEvidence:
        setting = {key: said[key] for key in ("config_digest", "fewshot", "limit")}
        evidence = TaskEvidence(setting=setting, prompts={}, scores={})
        raw = self._samples(name, said)
        for number, line in enumerate(raw.splitlines(), start=1):
            try:
                self._row(json.loads(line, parse_constant=_refuse_constant), evidence)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.problems.append(f"{said['samples']} line {number}: {type(error).__name__}: {error}")
        if len(evidence.prompts) != said["n"]:
            found = len(evidence.prompts)
            self.problems.append(
                f"task {name}: {said['n']} items were measured, {found} are in {said['samples']}"
            )
        if any(len(scores) != len(evidence.prompts) for scores in evidence.scores.values()):
            self.problems.append(f"task {name}: some items have no score for some metric")
        return evidence

    def _samples(self, name: str, said: dict[str, Any]) -> bytes:
        file = self.path / said["samples"]
        if file.parent != self.path or not file.is_file():
            self.problems.append(f"task {name}: the samples {said['samples']} are missing")
            return b""
        raw = file.read_bytes()
        self.hash.update(raw)
        if hashlib.sha256(raw).hexdigest() != said["samples_sha256"]:
            self.problems.append(f"task {name}: {said['samples']} is not the file that was measured")
        if not raw.strip():
            self.problems.append(f"task {name}: {said['samples']} is empty")
        return raw

    @staticmethod
    def _row(row: dict[str, Any], evidence: TaskEvidence) -> None:
        item = str(row["item"])
        if item in evidence.prompts:
            raise ValueError(f"item {item[:12]} is there twice")
        for metric, score in row["scores"].items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(f"item {item[:12]}: {metric} is {score!r}, not a finite number")
            evidence.scores.setdefault(metric, {})[item] = float(score)
        evidence.prompts[item] = str(row["prompt_hash"])


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
