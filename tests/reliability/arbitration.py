"""Is `merge.base: auto` as good as the better fixed choice? `python -m tests.reliability.arbitration`.

Five small architectures, each with a base that has learnt something and adapters of several seeds on it. A
fold is chosen on the validation split, and judged on a test split of other questions. Prints a JSON document.

Two intervals of the paired difference are told. The product's own (95 %, over chats) of each choice; of many
choices between equally good folds, one in forty lies wholly on the wrong side by chance. And one that holds
for all choices together (Bonferroni) and knows that the chats ask about the same ten things: exits with 1 if
a chosen fold is worse than the other one beyond that.
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

from flows.run.find_or_make import as_parent
from registry import Registry
from registry.artifacts import digest
from stages.config.evaluate import EvaluateConfig, MergeBaseTask
from stages.contract import Parent
from stages.evaluate import evaluate
from stages.statistics.cluster import clustered_mean
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
    config = EvaluateConfig(tasks=(MergeBaseTask(nf4=NF4, chats=30, tokens=32),))
    return {"seed": seed, **judged(_compared(parents, config, root / "validation"), parents, config, root)}


def from_registry(home: Path, root: Path) -> dict[str, Any]:
    """The choice that a run in the registry at `home` made last, judged on its dataset's test split."""
    with Registry.open(home) as registry:
        made = next(
            a for a in registry.ls(kind="evaluation", limit=1000) if "merge_base" in a.manifest.metrics
        )
        parents: dict[str, Parent] = {}
        for parent in made.manifest.parents:
            found = as_parent(registry, registry.get(parent.id))
            fold = found.quant.merge_base if found.quant else None
            role = {"16bit": "model", "nf4": "rival", None: found.kind}[
                fold if found.kind == "merged" else None
            ]
            parents[{"adapter": "reference_adapter"}.get(role, role)] = found
    config = EvaluateConfig.model_validate(made.manifest.config)
    return judged(made.manifest.metrics["merge_base"], parents, config, root)


def judged(
    decision: dict[str, Any], parents: dict[str, Parent], config: EvaluateConfig, root: Path
) -> dict[str, Any]:
    """The decision, and whether the fold that it chose is the worse one on the test split."""
    data = parents["dataset"]
    shutil.copytree(data.path, root / "judged", copy_function=shutil.copyfile)
    (root / "judged").chmod(0o755)
    shutil.copyfile(data.path / "test.parquet", root / "judged" / "validation.parquet")
    swapped = data.model_copy(update={"path": root / "judged", "id": digest([data.id, "test"])})
    test = _compared({**parents, "dataset": swapped}, config, root / "test")
    chosen, difference = decision["chosen"], test["loss_difference"]
    worse = difference["low"] > 0 if chosen == "16bit" else difference["high"] < 0
    return {
        "chosen": chosen, "by": decision["by"], "reason": decision["reason"],
        "test_loss": test["loss"], "test_difference": difference, "test_right": test["right"],
        "kl": decision["kl"], "worse_beyond_its_own_interval": worse, "differences": _per_chat(root / "test"),
    }  # fmt: skip


def _per_chat(out: Path) -> list[float]:
    """Loss in the 16-bit fold minus loss in the NF4 fold, chat by chat in the order of the split."""
    (file,) = out.glob("samples_*.jsonl")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [row["loss_16bit"] - row["loss_nf4"] for row in rows]


def worse_for_sure(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices that are worse than the other fold with 95 % confidence in all of them together.

    Two-sided, Bonferroni over the choices; chats about one thing count as one cluster.
    """
    found = []
    for row in rows:
        things = [place % len(lineages.THINGS) for place in range(len(row["differences"]))]
        bounds = clustered_mean(row["differences"], things, alpha=0.025 / len(rows))
        row["together"] = {"value": bounds.value, "low": bounds.low, "high": bounds.high}
        if bounds.low > 0 if row["chosen"] == "16bit" else bounds.high < 0:
            found.append(row)
    return found


def _compared(parents: dict[str, Parent], config: EvaluateConfig, out: Path) -> dict[str, Any]:
    out.mkdir()
    found: dict[str, Any] = evaluate(parents, config, out).metrics["merge_base"]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="adapters per architecture")
    parser.add_argument("--architectures", type=int, default=len(ARCHITECTURES), help="the first so many")
    parser.add_argument("--home", type=Path, help="instead: judge the last choice of a run in this registry")
    given = parser.parse_args(arguments)
    if given.home is not None:
        with tempfile.TemporaryDirectory() as folder:
            row = from_registry(given.home, Path(folder))
        print(json.dumps(row, indent=1))
        return int(row["worse_beyond_its_own_interval"])
    torch.set_num_threads(1)
    begun = time.monotonic()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, config) in enumerate(list(ARCHITECTURES.items())[: given.architectures]):
            base = lineages.base(Path(folder) / f"base-{place}", config)
            rows = [arbitrate(Path(folder) / f"{place}-{seed}", base, seed) for seed in range(given.seeds)]
            found[name] = rows
            print(json.dumps({name: rows}), file=sys.stderr, flush=True)
    every = [row for rows in found.values() for row in rows]
    report = {
        "architectures": found,
        "choices": len(every),
        "worse_beyond_their_own_interval": sum(row["worse_beyond_its_own_interval"] for row in every),
        "worse": len(worse_for_sure(every)),
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(report, indent=1))
    return 1 if report["worse"] else 0


if __name__ == "__main__":
    sys.exit(main())
