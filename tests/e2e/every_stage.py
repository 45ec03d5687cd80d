"""Every stage that makes an artifact, once, on a model made on the spot; writes the ids to `ids.json`.

    python -m tests.e2e.every_stage FOLDER

In one process, so that the libraries are imported once; everything else is as a run does it. The data are
named as in a recipe, and lie in FOLDER.
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from flows.run.find_or_make import as_parent, find_or_make, stage_inputs
from registry import Artifact, Registry
from registry.catalog import ResourceUse
from registry.drafts import Draft
from registry.leases import NO_WAIT
from stages.config.base import BaseConfig
from stages.config.evaluate import EvaluateConfig, FidelityTask, HeldoutTask
from stages.config.lora import LoraConfig
from stages.config.merge import MergeConfig
from stages.config.prepare import PrepareConfig, SplitConfig
from stages.config.train import Nf4Config, TrainConfig
from stages.contract import Facts
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.run import run_stage

importlib.import_module("stages.backends.preload")  # as a run does, which is the faster way

NF4 = Nf4Config(compute_dtype="float32")


class Line:
    """A registry in which one result after the other is made."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry.open(folder / "home", None, None)
        self.ids: dict[str, str] = {}

    def make(self, label: str, stage: str, config: BaseModel, **parents: Artifact) -> Artifact:
        """Run `stage` and commit what it made."""
        inputs = stage_inputs(stage, config, parents)

        def make(draft: Draft) -> tuple[Facts, ResourceUse]:
            seen = {role: as_parent(self.registry, parent) for role, parent in parents.items()}
            facts = Facts.model_validate(run_stage(stage, seen, config, draft.path))
            return facts, ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 1.0)

        made, _ = find_or_make(self.registry, inputs, make, NO_WAIT)
        self.ids[label] = made.id
        return made


def main(folder: Path) -> None:
    line = Line(folder)
    base = line.make("base", "resolve", BaseConfig(source="pico:0"))
    split = SplitConfig(validation=0.1, test=0.2)
    prepared = PrepareConfig(source=f"path:{folder / 'rows.jsonl'}", split=split, max_length=64)
    data = line.make("dataset", "prepare", prepared, base=base)
    trained = TrainConfig(
        lora=LoraConfig(rank=4, dropout=0), nf4=NF4, max_steps=2, batch_size=4, gradient_accumulation=1,
        max_length=64, evaluations=1, gradient_checkpointing=False,
    )  # fmt: skip
    adapter = line.make("adapter", "train", trained, base=base, dataset=data)
    asked = HeldoutTask(max_items=4, max_new_tokens=4)
    nf4 = EvaluateConfig(tasks=(asked,), nf4=NF4, compute_dtype="float32")
    line.make("score of the adapter", "evaluate", nf4, model=base, adapter=adapter, dataset=data)
    merged = line.make("merged", "merge", MergeConfig(), base=base, adapter=adapter)
    gptq = GptqConfig(group_size=64, calibration_rows=8, compute_dtype="float32")
    line.make("gptq", "quantize", gptq, model=merged, dataset=data)
    gguf = line.make("gguf", "quantize", GgufConfig(type="Q8_0"), model=merged)
    near = FidelityTask(chats=2, tokens=4)
    both = EvaluateConfig(tasks=(asked, near), compute_dtype="float32")
    line.make("score of the gguf", "evaluate", both, model=gguf, base=base, dataset=data, reference=merged)
    (folder / "ids.json").write_text(json.dumps(line.ids))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
