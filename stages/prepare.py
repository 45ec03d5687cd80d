"""Prepare a dataset: read, check, deduplicate, split by distinct prompt, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.contract import Facts, Parents, StageConfig

VERSION = 1
TOOLS = ("datasets", "pyarrow", "transformers")


class SplitConfig(StageConfig):
    validation: float = Field(default=0.05, ge=0, lt=1, description="share of the distinct prompts")
    test: float = Field(default=0.10, ge=0, lt=1, description="share of the distinct prompts")

    @model_validator(mode="after")
    def _something_left(self) -> SplitConfig:
        if self.validation + self.test >= 0.9:
            raise ValueError("validation + test must leave at least a tenth of the prompts to train on")
        return self


class PrepareConfig(StageConfig):
    """What to read and how to turn it into train, validation and test rows."""

    source: str = Field(
        description="`path:FILE_OR_DIRECTORY` (.jsonl .json .csv .parquet, also .gz), `hub:ORG/NAME@REVISION` "
        "(a Hugging Face dataset), or `package:DISTRIBUTION/PATH` (data shipped in an installed package)"
    )
    format: Literal[
        "auto", "messages", "prompt-completion", "instruction", "sharegpt",
        "chatterbot-dialogue", "chatterbot-topic",
    ] = Field(default="auto", description="shape of a row; `auto` detects it from the first rows")  # fmt: skip
    system: str | None = Field(default=None, description="system message put before rows that have none")
    split: SplitConfig = Field(default_factory=SplitConfig, description="shares held out")
    max_length: int = Field(default=1024, ge=8, description="tokens; longer rows are counted and rejected")
    max_rows: int | None = Field(default=None, ge=1, description="stop after this many accepted rows")
    max_rejected: float = Field(
        default=0.05, ge=0, le=1, description="share of rejected rows above which the run fails"
    )
    near_duplicates: float | None = Field(
        default=0.85, gt=0, le=1, description="MinHash Jaccard similarity (word 3-grams) from which two rows are one"
    )
    seed: int = Field(default=0, ge=0, description="seed of the split")


def prepare(parents: Parents, config: PrepareConfig, out: Path) -> Facts:
    """Write `train.parquet`, `validation.parquet`, `test.parquet`, `rejects.jsonl`, `statistics.json`, `README.md`.

    Each Parquet row: `messages` (list of {role, content}, the last one the assistant's), `prompt_hash`
    (sha256 of the normalized messages before the last), `tokens` (length of the rendered chat),
    `trainable` (assistant tokens). Uses the tokenizer and chat template of `parents["base"]`.
    Facts of kind `dataset`; metrics: rows read/accepted/rejected by reason, duplicates, rows and distinct
    prompts per split, length quantiles.
    """
    raise NotImplementedError
