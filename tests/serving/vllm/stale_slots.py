"""Bring a fault of older vLLM versions back into a running engine: `--worker-extension-cls`.

vLLM 0.22 and before kept the routing of a batch when another adapter was loaded meanwhile into a slot that
the batch used (issue 47724). The test of that has to fail on such an engine, or it shows nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serving.vllm import cpu_lora_patch

SWITCH = "TUNELINE_TEST_FAULT"
"""Names a file; the fault is there as long as the file is."""


class StaleSlots(cpu_lora_patch.Mended):
    """vLLM adds this to its worker's class; loading it is all that is wanted."""


def _bring_back() -> None:
    from vllm.lora import model_manager  # only in vLLM's own process

    switch = Path(os.environ[SWITCH])

    def patch(kind: Any) -> None:
        sound = kind.set_adapter_mapping

        def set_adapter_mapping(self: Any, mapping: Any) -> None:
            if switch.exists() and self._last_mapping == mapping:
                return
            sound(self, mapping)

        kind.set_adapter_mapping = set_adapter_mapping

    patch(model_manager.LoRAModelManager)


if SWITCH in os.environ:
    _bring_back()
