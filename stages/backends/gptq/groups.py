"""Does a GPTQ file hold groups of the size that its settings say?"""

from __future__ import annotations

from pathlib import Path

from stages.errors import InvalidInput
from stages.formats.model_directory import ModelDirectory


def require_group_size(folder: Path) -> None:
    """Raise `InvalidInput` where the scales of a layer are for other groups than `config.json` says.

    A packed weight has shape (inputs · bits / 32, outputs), its scales (groups, outputs).
    """
    model = ModelDirectory(folder)
    settings, headers = model.config["quantization_config"], model.headers
    stated, bits = int(settings["group_size"]), int(settings["bits"])
    for name, packed in headers.items():
        scales = headers.get(f"{name.removesuffix('qweight')}scales")
        if not name.endswith(".qweight") or scales is None:
            continue
        inputs = packed.shape[0] * 32 // bits
        groups = 1 if stated <= 0 else -(-inputs // stated)
        if scales.shape[0] != groups:
            raise InvalidInput(
                f"the settings say group_size {stated}, but {name.removesuffix('.qweight')} holds "
                f"{scales.shape[0]} groups of {inputs // max(scales.shape[0], 1)} weights: its weights would "
                "be read wrongly; quantize again, or restore the settings that were saved with it"
            )
