"""What a run has made so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.gates.channel import RecordedDecision
from flows.unmerged import ServingBase
from registry import Artifact
from registry.channels.channels import Channel
from registry.tenancy.endpoints import Endpoint


@dataclass
class Outcome:
    """What exists so far; a run that failed half-way has less."""

    base: Artifact | None = None
    dataset: Artifact | None = None
    adapter: Artifact | None = None
    merge_choice: Artifact | None = None
    variants: dict[str, tuple[Artifact, Artifact]] = field(default_factory=dict)
    verdict: RecordedDecision | None = None
    channel: Channel | None = None
    endpoint: Endpoint | None = None
    resident: ServingBase | None = None

    def measured(self, label: str, model: Artifact, evaluation: Artifact) -> None:
        """`model`, called `label`, has this evaluation."""
        self.variants[label] = (model, evaluation)
