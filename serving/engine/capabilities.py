"""What each engine can serve, of the version that is tested here.

vLLM: `vllm/lora/peft_helper.py`, `vllm/config/lora.py`. It reads `r` and `lora_alpha` and no pattern of
either, so that modules with others would be scaled wrongly and silently.
llama.cpp: `convert_lora_to_gguf.py` of the commit in llama-cpp-python 0.3.36. It refuses what is not a pair
of low-rank factors, and stores one alpha, which the runtime divides by the rank: rsLoRA and an alpha that
differs between modules would be scaled wrongly too.
"""

from __future__ import annotations

from dataclasses import replace

from registry.compat.model import EngineLimits
from registry.quantization import served_by

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes; 16 unless it is given."""

ENGINES = {
    "vllm": EngineLimits(
        name="vllm",
        version="0.32.0",
        methods=served_by("vllm"),
        kinds=frozenset({"base", "merged", "quantized"}),
        dtypes=frozenset({"F16", "BF16", "F32"}),
        max_rank=16,
        gguf_adapters=False,
        gptq_bits=frozenset({2, 3, 4, 8}),
        gptq_groups=frozenset({-1, 32, 64, 128}),
        refused_lora=frozenset({"dora", "bias", "saved", "alpha_pattern", "rank_pattern"}),
        unsure_lora=frozenset({"embedding"}),
    ),
    "llama.cpp": EngineLimits(
        name="llama.cpp",
        version="0.3.36",
        methods=served_by("llama.cpp"),
        kinds=frozenset({"quantized"}),
        dtypes=frozenset(),
        max_rank=1_000_000,
        gguf_adapters=True,
        refused_lora=frozenset({"dora", "rslora", "bias", "saved", "embedding", "alpha_pattern"}),
    ),
}


EMBEDDING_ENGINES = frozenset({"llama.cpp"})
"""Which give embeddings beside answers. A process of vLLM's does one of the two (its `--runner`): embeddings
would need the weights in memory a second time."""


def texts_at_once(parallel: int) -> int:
    """Requests for embeddings that are read at once, in an engine that gives `parallel` answers at once."""
    return max(1, parallel // 4)


def limits(engine: str, max_rank: int | None = None) -> EngineLimits:
    """The limits of an engine; `max_rank` where it is started for larger adapters than by default."""
    known = ENGINES[engine]
    return known if max_rank is None else replace(known, max_rank=max_rank)
