"""What training wrote beside an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from stages.config.train import Nf4Config
from stages.contract import Parent

HISTORY = "history.jsonl"
LOSSES = {"token": "nats per trained token", "pair": "nats per pair", "answer": "mean over answers"}
"""What a loss is the mean over → its unit, in words."""
LoggedStep = Mapping[str, float]
"""`step`, and `loss` with the other figures of the training or `validation_loss`."""


class TrainingRecord(TypedDict, total=False):
    """`tuneline.json`, for whoever has the adapter without its registry."""

    base: dict[str, Any]
    dataset: dict[str, str]
    quant: dict[str, Any]
    lora: dict[str, Any]
    tokenizer: dict[str, Any]
    dpo: dict[str, Any]
    kto: dict[str, Any]
    orpo: dict[str, Any]
    start: dict[str, str]


def training_record(adapter: Parent) -> TrainingRecord:
    """`tuneline.json`; empty for an adapter made elsewhere."""
    file = adapter.path / "tuneline.json"
    record: TrainingRecord = json.loads(file.read_text()) if file.is_file() else {}
    return record


def read_history(adapter: Path) -> list[LoggedStep]:
    """What was logged of a training, from the adapter's directory. Raises OSError where nothing was."""
    lines = (adapter / HISTORY).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def loss_of(history: Sequence[LoggedStep]) -> str:
    """What a loss is the mean over: `token`, `pair` of answers, or `answer`."""
    figures = {name for row in history for name in row}
    return "pair" if "margin" in figures else "answer" if "kl" in figures else "token"


def recorded_nf4(adapter: Parent) -> Nf4Config:
    """As recorded in training; QLoRA's own settings for an adapter without a record."""
    quant = adapter.quant.model_dump() if adapter.quant else training_record(adapter).get("quant", {})
    requested = quant.get("requested", {})
    return Nf4Config.model_validate(
        {key: requested[key] for key in Nf4Config.model_fields if key in requested}
    )
