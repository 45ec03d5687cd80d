"""What a run has made so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.candidate import Candidate
from flows.gates.channel import RecordedDecision
from flows.run.stage_row import Form
from flows.unmerged import ServingBase
from registry import Artifact
from registry.channels.channels import Channel
from registry.tenancy.endpoints import Endpoint


@dataclass
class RunOutcome:
    """What exists so far; a run that failed half-way has less."""

    base: Artifact | None = None
    dataset: Artifact | None = None
    adapter: Artifact | None = None
    merge_choice: Artifact | None = None
    candidates: list[Candidate] = field(default_factory=list)
    promoted: Candidate | None = None
    verdict: RecordedDecision | None = None
    channel: Channel | None = None
    endpoint: Endpoint | None = None
    resident: ServingBase | None = None

    def add(self, candidate: Candidate) -> Candidate:
        """Keep a form that was measured; they stay in their order."""
        self.candidates.append(candidate)
        return candidate

    def of(self, form: Form) -> Candidate | None:
        """The first of that form, if one was measured."""
        return next((candidate for candidate in self.candidates if candidate.form == form), None)

    def named(self, name: str) -> Candidate:
        """The one that a recipe calls so."""
        return next(candidate for candidate in self.candidates if candidate.name == name)
