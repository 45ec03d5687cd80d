"""Families of models through the stages, for real: `python -m tests.reliability.families [FAMILY …]`.

A tiny model of each is resolved, measured in NF4, trained for two steps, merged both ways, measured,
quantized with GPTQ, opened again and compared with what it was made from; before each step the contract is
asked. Prints a JSON document: for each family what came of each step, the distance of the GPTQ file from its
parent (KL), and where `stages.families` says otherwise: then the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.compatible import require_compatible
from stages.config.base import BaseConfig
from stages.config.evaluate import EvaluateConfig, FidelityTask, HeldoutTask
from stages.config.lora import LoraConfig
from stages.config.merge import MergeConfig
from stages.config.train import Nf4Config, TrainConfig
from stages.contract import Facts, Parent
from stages.evaluate import evaluate
from stages.families.support import gptq_refusal, training_refusal
from stages.merge import merge
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from stages.resolve import resolve
from stages.train import train
from tests.conftest import as_parent
from tests.stages.families.tiny_models import SETTINGS, save_chats, save_family

LIMIT = 0.05
"""Of the KL from the merged model to its 8-bit GPTQ; these random models reach 0.001, a wrong layer 1."""
TRAINING = (
    "resolve",
    "measure nf4",
    "train",
    "measure adapter",
    "merge 16bit",
    "merge nf4",
    "measure merged",
)
GPTQ = ("gptq", "measure gptq")

Step = Callable[[Path], Facts]


class Trial:
    """One family's models, step by step; a step that fails ends the rest."""

    def __init__(self, family: str, dataset: Parent, folder: Path) -> None:
        self.family, self.dataset, self.folder = family, dataset, folder
        self.made: dict[str, Parent] = {}
        self.kl = math.nan

    def steps(self) -> dict[str, Step]:
        return dict(
            zip(
                (*TRAINING, *GPTQ),
                (
                    self._resolve, self._nf4, self._train, self._adapter, self._merge_16bit, self._merge_nf4,
                    self._merged, self._gptq, self._reload,
                ),
                strict=True,
            )
        )  # fmt: skip

    def run(self) -> dict[str, str]:
        """Step → "ok", or the kind and first line of the error after which only GPTQ is tried."""
        found: dict[str, str] = {}
        for number, (name, step) in enumerate(self.steps().items()):
            if name not in GPTQ and set(found.values()) - {"ok"}:
                continue
            out = self.folder / f"{number}-{name.replace(' ', '-')}"
            out.mkdir()
            try:
                self.made[name] = as_parent(step(out), out)
                found[name] = "ok"
            except Exception as error:
                first = (str(error).strip() or "no message").splitlines()[0]
                found[name] = f"{type(error).__name__}: {first}"
                print(traceback.format_exc(), file=sys.stderr)
        return found

    def _parent(self) -> Parent:
        """What GPTQ is made from."""
        return self.made.get("merge 16bit", self.made["resolve"])

    def _resolve(self, out: Path) -> Facts:
        saved = save_family(self.family, self.folder / "saved")
        return resolve({}, BaseConfig(source=f"path:{saved}"), out)

    def _nf4(self, out: Path) -> Facts:
        return self._measure({"model": self.made["resolve"]}, out, nf4=Nf4Config(compute_dtype="float32"))

    def _train(self, out: Path) -> Facts:
        config = TrainConfig(
            lora=LoraConfig(rank=4), nf4=Nf4Config(compute_dtype="float32"), max_steps=2, batch_size=2,
            gradient_accumulation=1, max_length=64, evaluations=1, learning_rate=1e-2,
        )  # fmt: skip
        return train({"base": self.made["resolve"], "dataset": self.dataset}, config, out)

    def _adapter(self, out: Path) -> Facts:
        parents = {"model": self.made["resolve"], "adapter": self.made["train"]}
        return self._measure(parents, out, nf4=Nf4Config(compute_dtype="float32"))

    def _merge_16bit(self, out: Path) -> Facts:
        parents = {"base": self.made["resolve"], "adapter": self.made["train"]}
        require_compatible("merge", None, parents)
        return merge(parents, MergeConfig(base="16bit"), out)

    def _merge_nf4(self, out: Path) -> Facts:
        parents = {"base": self.made["resolve"], "adapter": self.made["train"]}
        return merge(parents, MergeConfig(base="nf4"), out)

    def _merged(self, out: Path) -> Facts:
        """Against base and adapter apart: the update has to have arrived, and nothing else."""
        near = FidelityTask(
            reference="base", adapter=True, nf4=Nf4Config(compute_dtype="float32"), chats=4, tokens=8
        )
        parents = {
            "model": self.made["merge nf4"], "base": self.made["resolve"],
            "reference_adapter": self.made["train"],
        }  # fmt: skip
        facts = self._measure(parents, out, near)
        self._require_near(facts)
        odd = {name: found for name, found in facts.metrics["weights"].items() if name != "modules" and found}
        if odd:
            raise AssertionError(f"not what base and adapter make together: {odd}")
        return facts

    def _gptq(self, out: Path) -> Facts:
        config = GptqConfig(bits=8, group_size=32, calibration_rows=24, compute_dtype="float32")
        return quantize({"model": self._parent(), "dataset": self.dataset}, config, out)

    def _reload(self, out: Path) -> Facts:
        parents = {"model": self.made["gptq"], "reference": self._parent()}
        facts = self._measure(parents, out, FidelityTask(chats=4, tokens=8))
        require_compatible("deploy", None, {"base": self.made["resolve"], "model": self.made["gptq"]})
        self.kl = self._require_near(facts)
        return facts

    def _measure(
        self, parents: dict[str, Parent], out: Path, *more: FidelityTask, nf4: Nf4Config | None = None
    ) -> Facts:
        config = EvaluateConfig(
            tasks=(HeldoutTask(max_items=3, max_new_tokens=4), *more), nf4=nf4, batch_size=2,
            compute_dtype="float32", context_length=64,
        )  # fmt: skip
        require_compatible("evaluate", config, parents)
        return evaluate({**parents, "dataset": self.dataset}, config, out)

    def _require_near(self, facts: Facts) -> float:
        kl = float(facts.metrics["fidelity"]["fidelity"]["metrics"]["kl_mean"]["value"])
        if not kl < LIMIT:
            raise AssertionError(f"far from what it was made from: KL {kl:.3g}, expected below {LIMIT}")
        return kl


def judge(family: str, found: dict[str, str]) -> str:
    """What `stages.families` says that did not happen; empty where they agree."""
    trained = all(found.get(step) == "ok" for step in TRAINING)
    if trained == (training_refusal(family) is not None):
        return f"training: {training_refusal(family) or 'not refused'}"
    quantized = all(found.get(step) == "ok" for step in GPTQ)
    if quantized == (gptq_refusal(family) is not None):
        return f"GPTQ: {gptq_refusal(family) or 'not refused'}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*", default=sorted(SETTINGS))
    families = parser.parse_args().family
    logging.disable(logging.WARNING)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    report: dict[str, Any] = {}
    with TemporaryDirectory() as name:
        dataset = Parent(id="d" * 64, kind="dataset", path=save_chats(Path(name) / "chats"))
        for family in families:
            folder, begun = Path(name) / family, time.monotonic()
            folder.mkdir()
            trial = Trial(family, dataset, folder)
            steps = trial.run()
            report[family] = {
                "steps": steps, "kl": None if math.isnan(trial.kl) else round(trial.kl, 6),
                "disagrees": judge(family, steps), "seconds": round(time.monotonic() - begun, 1),
            }  # fmt: skip
            print(family, json.dumps(report[family]), file=sys.stderr, flush=True)
    answers.write(json.dumps(report, indent=1) + "\n")
    return int(any(one["disagrees"] for one in report.values()))


if __name__ == "__main__":
    sys.exit(main())
