"""PEFT adapters as GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.backends.gguf.adapter import convert_adapter
from stages.errors import InvalidInput
from tests.stages.backends.merge.lora_models import save_adapter, save_llama


def test_what_llama_cpp_would_leave_out_is_refused_by_name(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    for number, (lora, named) in enumerate(
        {
            "embed_tokens": (
                {"target_modules": ["q_proj", "embed_tokens"]},
                "embed_tokens.*embedding or the",
            ),
            "use_rslora": ({"use_rslora": True}, "sets use_rslora = True"),
            "use_dora": ({"use_dora": True}, "sets use_dora = True"),
            "lm_head": ({"modules_to_save": ["lm_head"]}, "lm_head.*embedding or the output head"),
            "norm": ({"modules_to_save": ["norm"]}, "norm.weight is not a pair of LoRA factors"),
        }.values()
    ):
        adapter = save_adapter(base, tmp_path / f"peft-{number}", **lora)  # type: ignore[arg-type]
        out = tmp_path / f"out-{number}"
        out.mkdir()
        with pytest.raises(InvalidInput, match=named):
            convert_adapter(adapter, base, "F16", "x", out)
        assert not list(out.iterdir()), "nothing is left behind"
