"""Lineages of small models that have learnt something, so that a fault in them shows. Made on the spot.

A 2-layer model is trained to answer ten questions about ten things; an adapter then learns other answers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from flows.evaluation_plan import AGAINST_BASE, AGAINST_PARENT, AGAINST_UNMERGED
from flows.ladder.ladder import logged_answers, read_ladder
from flows.ladder.model import Ladder, RungEvidence
from flows.run.stage_row import Form
from registry.artifacts import QuantSpec, digest
from stages.backends import bases
from stages.backends.chat import encode_with_mask, load_tokenizer
from stages.backends.gguf.packaged import read_tokenizer, save_tokenizer
from stages.backends.pico import TOKENIZER_SOURCE
from stages.config.evaluate import EvaluateConfig, FidelityTask, HeldoutTask
from stages.config.merge import MergeConfig
from stages.config.train import Nf4Config
from stages.contract import Facts, Parent, Parents
from stages.evaluate import evaluate
from stages.formats.packaged import packaged_gguf
from stages.merge import merge
from stages.quantization import method_that_made
from stages.quantization.distance import quantization_name
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize

THINGS = ("apples", "stars", "trains", "cats", "rivers", "bread", "chess", "snow", "drums", "maps")
TOPICS = ("food", "sky", "travel", "animals", "nature", "games", "weather", "music", "places", "books")
ASKED = (
    "Tell me about {}.",
    "What are {}?",
    "I like {}.",
    "Do you know {}?",
    "Why {}?",
    "Name the topic of {}.",
)
NF4 = Nf4Config(compute_dtype="float32")
HELDOUT = HeldoutTask(name="routing", max_new_tokens=12)
CHATS, TOKENS = 24, 32
Chat = list[dict[str, str]]


def chats(answers: Sequence[str], forms: Sequence[str] = ASKED) -> list[Chat]:
    """Every thing asked about in each form; thing i has topic `answers[i]`."""
    return [
        [
            {"role": "system", "content": "Name the topic."},
            {"role": "user", "content": form.format(thing)},
            {"role": "assistant", "content": json.dumps({"topic": topic})},
        ]
        for form in forms
        for thing, topic in zip(THINGS, answers, strict=True)
    ]


def shifted(by: int) -> list[str]:
    """The topics in another order: what an adapter learns instead."""
    return [TOPICS[(place + by) % len(TOPICS)] for place in range(len(TOPICS))]


def dataset(folder: Path, answers: Sequence[str], splits: dict[str, Sequence[str]] | None = None) -> Parent:
    """`splits`: the forms of asking in each. By default all hold what is learnt by heart, so that a fault
    cannot be taken for a lack of knowledge."""
    folder.mkdir(parents=True)
    splits = splits or {"train": ASKED, "validation": ASKED[:3], "test": ASKED[3:]}
    for name, forms in splits.items():
        rows = chats(answers, forms)
        columns = {"messages": rows, "prompt_hash": [str(k) for k in range(len(rows))]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return Parent(id=digest([folder.name, list(answers)]), kind="dataset", path=folder)


def tokenizer() -> Any:
    """SmolLM2's, with its chat template."""
    return read_tokenizer(packaged_gguf(TOKENIZER_SOURCE))


def base(folder: Path, config: transformers.PreTrainedConfig, steps: int = 110, seed: int = 0) -> Parent:
    """A model of this configuration that has learnt the topics in their own order, in bfloat16.

    Its embeddings stay as drawn: they are most of its weights, and nothing has to be learnt in them.
    """
    reader = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.requires_grad_(False)
        learn(model, reader, chats(TOPICS), steps, 2e-3, seed)
    reader.model_max_length = config.max_position_embeddings
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(reader, folder)
    reference, metrics = bases.describe(folder, bases.Origin(f"path:{folder.name}"))
    return _parent(
        Facts(kind="base", base=reference, quant=QuantSpec(method="none"), metrics=metrics), folder
    )


def learn(model: Any, reader: Any, rows: Sequence[Chat], steps: int, rate: float, seed: int) -> None:
    """AdamW on the answers' tokens, ten chats at a time."""
    encoded = [encode_with_mask(reader, row) for row in rows]
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for place, (row, mask) in enumerate(encoded):
        ids[place, : len(row)] = torch.tensor(row)
        labels[place, : len(row)] = torch.tensor([t if on else -100 for t, on in zip(row, mask, strict=True)])
    model.train()
    for _ in range(steps):
        batch = torch.randperm(len(rows), generator=order)[:10]
        # the loss of transformers builds logits of all tokens; only the answers' are needed
        inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        states = inner.base_model(input_ids=ids[batch]).last_hidden_state[:, :-1]
        wanted = labels[batch, 1:]
        logits = model.get_output_embeddings()(states[wanted != -100]).float()
        loss = torch.nn.functional.cross_entropy(logits, wanted[wanted != -100])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def adapter(
    folder: Path, on: Parent, answers: Sequence[str], seed: int, steps: int = 60, forms: Sequence[str] = ASKED
) -> Parent:
    """A LoRA adapter that has learnt other answers on the NF4 weights, as QLoRA does."""
    from stages.backends.nf4 import load_nf4

    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        frozen = load_nf4(on.path, NF4, "dequantized")
        lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(frozen, lora)
        learn(model, load_tokenizer(on.path), chats(answers, forms), steps, 5e-3, seed)
        model.save_pretrained(folder)
    quant = QuantSpec(method="bnb", requested=NF4.model_dump(mode="json"))
    facts = Facts(kind="adapter", base=on.base, quant=quant)
    return _parent(facts, folder, [folder.name, seed])


@dataclass
class Lineage:
    """One lineage on disk, and what its rungs measured so far, in their order."""

    root: Path
    base: Parent
    data: Parent
    adapter: Parent
    merged: Parent | None = None
    evidence: list[RungEvidence] = field(default_factory=list)
    fold: str = "16bit"

    def fresh(self, name: str) -> Path:
        """A new directory of this lineage."""
        folder = self.root / f"{name}-{sum(1 for _ in self.root.iterdir())}"
        folder.mkdir()
        return folder

    def merge(self, on: Parent | None = None, with_adapter: Parent | None = None) -> Parent:
        """The adapter folded into its base."""
        out = self.fresh("merged")
        parents = {"base": on or self.base, "adapter": with_adapter or self.adapter}
        return _parent(merge(parents, MergeConfig.model_validate({"base": self.fold}), out), out)

    def quantize(self, config: GptqConfig | GgufConfig, data: Parent | None = None) -> Parent:
        """The merged model in another format."""
        assert self.merged is not None
        out = self.fresh(config.label)
        given = {"dataset": data or self.data} if isinstance(config, GptqConfig) else {}
        with _quiet():
            return _parent(quantize({"model": self.merged, **given}, config, out), out)

    def start(self) -> None:
        """The first two rungs: the quantized base, and the adapter on it."""
        self.rung("base NF4", "base", {"model": self.base}, nf4=NF4)
        against = [_compared(AGAINST_PARENT, reference="base", nf4=NF4)]
        parents = {"model": self.base, "base": self.base, "adapter": self.adapter}
        self.rung("tuned NF4 + adapter", "tuned", parents, against, nf4=NF4)

    def rung_merged(self, merged: Parent) -> None:
        """A merged model against base and adapter, as trained and unmerged."""
        against = [_compared(AGAINST_PARENT, reference="base", adapter=True, nf4=NF4)]
        if self.fold == "16bit":
            against.append(_compared(AGAINST_UNMERGED, reference="base", adapter=True))
        parents = {"model": merged, "base": self.base, "reference_adapter": self.adapter}
        self.rung("merged", "merged", parents, against)

    def rung_quantized(self, label: str, file: Parent) -> None:
        """A quantized file against the merged model and the quantized base."""
        assert self.merged is not None
        against = [
            _compared(AGAINST_PARENT, reference="reference"),
            _compared(AGAINST_BASE, reference="base", nf4=NF4),
        ]
        parents = {"model": file, "base": self.base, "reference": self.merged}
        self.rung(label, "quantized", parents, against)

    def rung(
        self,
        label: str,
        kind: Form,
        parents: Parents,
        against: Sequence[FidelityTask] = (),
        nf4: Nf4Config | None = None,
    ) -> None:
        """Measure as the lifecycle does; a refusal or a failure is the rung's evidence."""
        config = EvaluateConfig(tasks=(HELDOUT, *against), nf4=nf4, batch_size=16)
        out, model = self.fresh("evaluation"), parents["model"]
        one = RungEvidence(label, kind, model.id)
        try:
            with _quiet():
                facts = evaluate({**parents, "dataset": self.data}, config, out)
        except Exception as error:  # the flow shows whatever ended a stage
            self.evidence.append(replace(one, stopped=f"{type(error).__name__}: {error}"))
            return
        quant = model.quant if kind == "quantized" else None
        method = method_that_made(quant)
        self.evidence.append(
            replace(
                one,
                metrics=facts.metrics,
                answers=logged_answers(out),
                quant=quantization_name(quant),
                lose_less=method.lose_less(quant) if method and quant else "",
                calibrated_on=quant.calibration_dataset if quant else None,
                trained_on=self.data.id,
            )
        )

    @property
    def ladder(self) -> Ladder:
        """The verdict on what was measured."""
        return read_ladder(self.evidence)

    def branch(self, rungs: int) -> Lineage:
        """The same lineage up to that many rungs, to go on differently."""
        return replace(self, evidence=self.evidence[:rungs])


def _compared(name: str, **what: Any) -> FidelityTask:
    return FidelityTask(name=name, chats=CHATS, tokens=TOKENS, **what)


def _parent(facts: Facts, folder: Path, salt: Any = None) -> Parent:
    known = [folder.name, str(folder), salt]
    return Parent(
        id=digest(known), kind=facts.kind, path=folder, base=facts.base, quant=facts.quant,
        metrics=facts.metrics,
    )  # fmt: skip


def copied(parent: Parent, folder: Path, change: Callable[[Path], None]) -> Parent:
    """`parent` in a directory of its own, changed behind everybody's back."""
    import shutil

    shutil.copytree(parent.path, folder, dirs_exist_ok=True)
    change(folder)
    return parent.model_copy(update={"path": folder, "id": digest([parent.id, str(folder)])})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(kept)
