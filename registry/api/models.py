"""What the HTTP API answers: the shape of every document, from which OpenAPI describes it.

Left out on purpose: the content of files, paths on the server, pids, and the namespace of a host's pids.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from registry.api.queries import Graph
from registry.artifacts import BaseReference, Digest, FileEntry, Kind, Parentage, QuantSpec
from registry.channels.decisions import Verdict
from registry.quantization import QuantMethod

Item = TypeVar("Item")
Content = Literal["present", "collected"]


class ApiModel(BaseModel):
    # Rows have more columns than an answer tells.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Page(ApiModel, Generic[Item]):
    """Some items of a list."""

    items: list[Item]
    next: str | None = Field(description="`cursor` of the page that follows; null on the last one")


class Summary(ApiModel):
    """An artifact in a list; `name` and `version` are the latest that it was given."""

    id: Digest
    kind: Kind
    stage: str
    created: datetime
    bytes: int = Field(description="size of all its files")
    name: str | None
    version: int | None
    base_source: str | None
    base_revision: str | None
    quant_method: QuantMethod | None
    content: Content = Field(description="collected: its files were removed to free space; its record stays")


class Name(ApiModel):
    """A human name: the `version`th artifact that was called so."""

    name: str
    version: int


class GivenName(Name):
    artifact_id: Digest


class ArtifactAnswer(ApiModel):
    """One artifact, without the list of its files."""

    id: Digest
    kind: Kind
    stage: str
    stage_version: int
    created: datetime
    bytes: int
    files: int = Field(description="how many files it has")
    content: Content
    names: list[Name]
    parents: tuple[Parentage, ...]
    base: BaseReference | None
    quant: QuantSpec | None
    config: dict[str, Any]
    toolchain: dict[str, str]
    metrics: dict[str, Any]


class FileAnswer(FileEntry):
    name: str


class Files(ApiModel):
    """Names, digests and sizes; never content."""

    id: Digest
    files: list[FileAnswer]


class LineageAnswer(Graph):
    id: Digest
    direction: Literal["up", "down"]


class ExecutionAnswer(ApiModel):
    """One run that led to the artifact."""

    key: Digest = Field(description="memo key: the digest of all that went in")
    started: datetime
    seconds: float
    peak_bytes: int | None
    host: str


class EvaluationAnswer(Summary):
    metrics: dict[str, Any]


class ChannelAnswer(ApiModel):
    name: str
    artifact_id: Digest
    generation: int
    moved: datetime


class EventAnswer(ApiModel):
    """One move of a channel; `digest` covers it and, through `previous_digest`, all before it."""

    channel: str
    generation: int
    action: Literal["move", "rollback"]
    artifact_id: Digest
    restores: int | None = Field(description="the generation that a rollback went back to")
    decision_id: Digest | None
    reason: str | None
    who: str | None
    at: datetime
    previous_digest: Digest
    digest: Digest


class DecisionSummary(ApiModel):
    """A gate decision in a list."""

    id: Digest
    candidate: Digest
    baseline: Digest | None
    verdict: Verdict
    created: datetime
    signer: Digest | None = Field(description="sha256 of the public key that signed it")


class DecisionAnswer(DecisionSummary):
    """A gate decision with the policy and the evidence behind it."""

    policy: dict[str, Any]
    evidence: dict[str, Any]
    signature: str | None


class EndpointAnswer(ApiModel):
    """An engine that serves an artifact, as it was written down when it started."""

    id: str
    artifact_id: Digest
    channel: str | None
    engine: str
    url: str
    started: datetime
    stopped: datetime | None


class Health(ApiModel):
    status: Literal["ok", "ready"]


class ParameterProblem(ApiModel):
    parameter: str
    detail: str


class Problem(ApiModel):
    """What went wrong (RFC 9457, `application/problem+json`)."""

    type: str = Field(description="names the kind of problem")
    title: str
    status: int
    detail: str
    errors: list[ParameterProblem] = Field(default=[], description="which parameters were refused, and why")
