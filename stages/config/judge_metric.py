"""A metric that another model judges by: what it is asked, and where it answers."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from stages.contract import StageConfig

BUILT_IN = "builtin:1"
"""The prompt that comes with Tuneline, with its version: another wording gets another number."""
FILES = ("prompt", "answers", "gguf")
"""Keys that name files, which count by their digests."""
ARTIFACT = "artifact:"
"""How a name begins that a run looks up in the registry: `artifact:REF`, or `artifact:REF/FILE`."""
ROOM_FOR_REASONS = 128
"""Tokens below which a reason leaves no room for the verdict after it."""
_URL = re.compile(r"https?://[^\s/?#@\\]+(/[^\s?#@\\]*)?")
_GOOD = "The answer is correct, complete, and answers what was asked; it says nothing that is not so."


class JudgeMetric(StageConfig):
    """What another model says of the answer: good or not, a grade, or better than another answer.

    The judge is an endpoint with OpenAI's API or a local GGUF file. docs/judge.md says what a gate takes its
    word for.
    """

    kind: Literal["judge"] = "judge"
    name: str = Field(
        default="judge",
        pattern=r"^[a-z][a-z0-9_]*$",
        description="what the score is called in reports and gates",
    )
    compare: Literal["rubric", "pairwise"] = Field(
        default="rubric",
        description="rubric: each answer by itself. pairwise: with another answer to the same question, in "
        "both orders; 1 where it is better in both, 0 where it is worse in both, else 0.5",
    )
    rubric: str = Field(
        default=_GOOD, min_length=1, max_length=4000, description="what a good answer is, in words"
    )
    levels: int = Field(
        default=2, ge=2, le=10, description="rubric: 2: 1 (good) or 0; more: grades from 1 to that many"
    )
    reference: bool = Field(default=True, description="rubric: show the judge the expected answer too")
    answers: str | None = Field(
        default=None,
        description="pairwise: the samples file of another evaluation, or `artifact:REF/samples_TASK.jsonl`; "
        "default: the expected answers",
    )
    prompt: str = Field(
        default=BUILT_IN,
        min_length=1,
        description=f"`{BUILT_IN}`, or the path of a text file with places such as `{{question}}`",
    )
    url: str | None = Field(
        default=None, description="of an endpoint with OpenAI's API, such as `http://127.0.0.1:8000/v1`"
    )
    model: str | None = Field(default=None, min_length=1, description="the model's name at the endpoint")
    key: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="name of the environment variable that holds the endpoint's key",
    )
    network: bool = Field(
        default=False,
        description="the endpoint may be on another machine, which gets the questions and answers to read",
    )
    gguf: str | None = Field(
        default=None,
        description="a GGUF file, a folder with model.gguf, or `artifact:REF`; llama.cpp answers with it",
    )
    context_length: int = Field(default=4096, ge=256, description="gguf: tokens of question and verdict")
    reasons: bool = Field(
        default=False, description="have it give a reason first; needs max_tokens of 128 or more"
    )
    max_tokens: int = Field(default=64, ge=16, le=8192, description="length of a verdict, in tokens")
    seed: int = Field(default=0, ge=0, lt=2**31, description="sent with each request, at temperature 0")
    seconds: float = Field(default=120.0, gt=0, le=3600, description="that one verdict may take")

    @model_validator(mode="after")
    def _one_judge(self) -> JudgeMetric:
        if (self.url is None) == (self.gguf is None):
            raise ValueError("judge needs either url, an endpoint with OpenAI's API, or gguf, a local file")
        if self.url is None:
            if self.model is not None or self.key is not None or self.network:
                raise ValueError("model, key and network belong to url; take them out beside gguf")
        elif self.model is None:
            raise ValueError("url needs model, the model's name at the endpoint")
        else:
            _require_allowed(self.url, self.network, self.key is not None)
        return self

    @model_validator(mode="after")
    def _has_room(self) -> JudgeMetric:
        if self.reasons and self.max_tokens < ROOM_FOR_REASONS:
            raise ValueError(
                f"reasons needs max_tokens of at least {ROOM_FOR_REASONS}, or a reply ends before its verdict"
            )
        return self

    @model_validator(mode="after")
    def _fits_what_is_compared(self) -> JudgeMetric:
        if self.compare == "pairwise" and self.levels != 2:
            raise ValueError("levels belongs to compare: rubric; a pair is won, lost or tied")
        if self.compare == "rubric" and self.answers is not None:
            raise ValueError("answers belongs to compare: pairwise; take it out")
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def binary(self) -> bool:
        """Whether each score is 0 or 1."""
        return self.compare == "rubric" and self.levels == 2

    @property
    def remote(self) -> bool:
        """Whether the judge is on another machine."""
        return self.url is not None and not is_loopback(urlsplit(self.url).hostname or "")

    @property
    def lowest(self) -> float:
        """The worst score; the best is `highest`."""
        return 0.0 if self.levels == 2 else 1.0

    @property
    def highest(self) -> float:
        return 1.0 if self.levels == 2 else float(self.levels)


def names_file(value: str) -> bool:
    """Whether a value of `FILES` is the name of a file here, no prompt of ours and no artifact."""
    return not value.startswith(("builtin:", ARTIFACT))


def is_loopback(host: str) -> bool:
    """Whether a host in a URL is this machine's own: `localhost`, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_allowed(url: str, network: bool, keyed: bool) -> None:
    if not _URL.fullmatch(url):
        raise ValueError(f"{url!r} is not an endpoint's address; expected https://HOST[:PORT]/v1")
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return
    if not network:
        raise ValueError(
            f"{url} is not on this machine: the judge there would read all questions and answers; set "
            "network: true if it may, or give a loopback address"
        )
    if keyed and parts.scheme != "https":
        raise ValueError(f"{url}: a key is sent over https only; take https://, or leave key out")
