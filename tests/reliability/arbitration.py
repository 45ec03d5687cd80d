"""Is `merge.base: auto` as good as the better fixed choice? `python -m tests.reliability.arbitration`.

Five small architectures, each with a base that has learnt something and adapters of several seeds on it. A
fold is chosen on the validation split, and judged on a test split of other questions. Prints a JSON document;
exits with 1 if a chosen fold is worse on the test split than the other one beyond their paired interval.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from registry.artifacts import digest
from stages.contract import Parent
from stages.evaluate import EvaluateConfig, MergeBaseTask, evaluate
from tests.reliability import lineages
from tests.reliability.lineages import NF4, Lineage, shifted

FORMS = (
    "Tell me about {}.", "What are {}?", "I like {}.", "Do you know {}?", "Why {}?", "Name {}.", "So, {}!",
    "Where are {}?", "Have you seen {}?", "Think of {}.", "{} are what?", "And {}?",
)  # fmt: skip
SPLITS = {"train": FORMS[:6], "validation": FORMS[6:9], "test": FORMS[9:]}
SHAPE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 2048, "initializer_range": 0.08,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 64}
ARCHITECTURES: dict[str, transformers.PreTrainedConfig] = {
    "Llama, tied head": transformers.LlamaConfig(**SHAPE, **GROUPED, tie_word_embeddings=True),
    "Mistral, untied head": transformers.MistralConfig(**SHAPE, **GROUPED, tie_word_embeddings=False),
    "Qwen2, untied head": transformers.Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=False),
    "Gemma, tied head": transformers.GemmaConfig(**SHAPE, **GROUPED, tie_word_embeddings=True),
    "GPT-NeoX, untied head": transformers.GPTNeoXConfig(**SHAPE, tie_word_embeddings=False),
}


def arbitrate(root: Path, base: Parent, seed: int) -> dict[str, Any]:
    """One adapter of `base`: what was chosen and why, and both folds on the test split."""
    root.mkdir()
    answers = shifted(1 + seed)
    data = lineages.dataset(root / "data", answers, SPLITS)
    adapter = lineages.adapter(root / "adapter", base, answers, seed, steps=40, forms=SPLITS["train"])
    lines = {fold: Lineage(root, base, data, adapter, fold=fold) for fold in ("16bit", "nf4")}
    parents = {
        "model": lines["16bit"].merge(), "rival": lines["nf4"].merge(), "base": base,
        "reference_adapter": adapter, "dataset": data,
    }  # fmt: skip
    decision = _compared(parents, root / "validation")
    shutil.copytree(data.path, root / "judged")
    shutil.copy(root / "judged" / "test.parquet", root / "judged" / "validation.parquet")
    judged = data.model_copy(update={"path": root / "judged", "id": digest([data.id, "test"])})
    test = _compared({**parents, "dataset": judged}, root / "test")
    chosen, difference = decision["chosen"], test["loss_difference"]
    worse = difference["low"] > 0 if chosen == "16bit" else difference["high"] < 0
    return {
        "seed": seed, "chosen": chosen, "by": decision["by"], "reason": decision["reason"],
        "test_loss": test["loss"], "test_difference": difference, "test_right": test["right"],
        "kl": decision["kl"], "worse_than_the_other_beyond_its_interval": worse,
    }  # fmt: skip


def _compared(parents: dict[str, Parent], out: Path) -> dict[str, Any]:
    out.mkdir()
    config = EvaluateConfig(tasks=(MergeBaseTask(nf4=NF4, chats=30, tokens=32),))
    found: dict[str, Any] = evaluate(parents, config, out).metrics["merge_base"]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="adapters per architecture")
    parser.add_argument("--architectures", type=int, default=len(ARCHITECTURES), help="the first so many")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begun = time.monotonic()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, config) in enumerate(list(ARCHITECTURES.items())[: given.architectures]):
            base = lineages.base(Path(folder) / f"base-{place}", config)
            rows = [arbitrate(Path(folder) / f"{place}-{seed}", base, seed) for seed in range(given.seeds)]
            found[name] = rows
            print(json.dumps({name: rows}), file=sys.stderr, flush=True)
    worse = sum(row["worse_than_the_other_beyond_its_interval"] for rows in found.values() for row in rows)
    seconds = round(time.monotonic() - begun, 1)
    print(json.dumps({"architectures": found, "worse": worse, "seconds": seconds}, indent=1))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
