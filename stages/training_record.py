"""What training wrote beside an adapter."""

from __future__ import annotations

import json
from typing import Any

from stages.config.train import Nf4Config
from stages.contract import Parent


def training_record(adapter: Parent) -> dict[str, Any]:
    """`tuneline.json`; empty for an adapter made elsewhere."""
    file = adapter.path / "tuneline.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def recorded_nf4(adapter: Parent) -> Nf4Config:
    """As recorded in training; QLoRA's own settings for an adapter without a record."""
    record = {} if adapter.quant else training_record(adapter)
    requested = adapter.quant.requested if adapter.quant else record.get("quant", {}).get("requested", {})
    return Nf4Config.model_validate(
        {key: requested[key] for key in Nf4Config.model_fields if key in requested}
    )
