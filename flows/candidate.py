"""A form of the model that was measured: what is compared, judged, promoted and reported."""

from __future__ import annotations

from dataclasses import dataclass

from flows.evaluation_plan import Measurement
from flows.run.stage_row import Form
from flows.run.step import Run
from registry import Artifact


@dataclass(frozen=True)
class Candidate:
    """A model and the evaluation that speaks for it. `label`: what tables call it."""

    form: Form
    label: str
    model: Artifact
    evaluation: Artifact

    @property
    def name(self) -> str:
        """What a recipe's `promote.candidate` calls it."""
        names: dict[Form, str] = {"merged": "merged", "apart": "adapter"}
        return names.get(self.form, self.label)


def measure(run: Run, plan: Measurement, subject: Artifact, /, **parents: Artifact) -> Candidate:
    """`subject` with its evaluation; `parents`: what is measured, and what it is compared with, by role."""
    evaluation = run.step("evaluate", plan.config, plan.step, plan.form, **parents)
    return Candidate(plan.form, plan.label, subject, evaluation)
