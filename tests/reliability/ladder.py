"""Twelve seeded faults, and healthy lineages beside them: `python -m tests.reliability.ladder --healthy 20`.

Each fault is put into one form of a lineage that was healthy before; the ladder has to find it, on the right
rung. Prints one JSON document; exits with 1 unless 12 are found, at least 11 on the right rung, and no
healthy lineage raises an alarm.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from flows.ladder.model import Ladder, RungEvidence
from registry.errors import RegistryError
from stages.contract import Parent
from stages.quantization.gguf import GgufConfig
from stages.quantization.gptq import GptqConfig
from tests.reliability import lineages
from tests.reliability.lineages import TOPICS, Lineage, copied, shifted

GPTQ = GptqConfig(group_size=64, calibration_rows=32)
GGUF = GgufConfig(type="Q8_0")
WEIGHTS = "model.safetensors"


def pico(tied: bool = False) -> LlamaConfig:
    """The shape of the smoke test's model, its head untied unless asked."""
    return LlamaConfig(
        vocab_size=49152, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=tied, initializer_range=0.08,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip


def grown(root: Path, base: Parent, seed: int = 0, fold: str = "16bit") -> Lineage:
    """A healthy lineage up to its merged model, with the first three rungs measured."""
    root.mkdir(parents=True)
    answers = shifted(1 + seed % 9)
    data = lineages.dataset(root / "data", answers)
    adapter = lineages.adapter(root / "adapter", base, answers, seed)
    line = Lineage(root, base, data, adapter, fold=fold)
    line.start()
    line.merged = line.merge()
    line.rung_merged(line.merged)
    return line


# --- the faults: each takes a healthy lineage and returns what the ladder says of the faulty one ---------


def wrong_template(line: Lineage) -> Ladder:
    """The merged model carries another model's chat template."""
    return _faulty_merge(
        line, _template(lambda text: text.replace("<|im_start|>", "### ").replace("<|im_end|>", ""))
    )


def double_bos(line: Lineage) -> Ladder:
    """The template writes BOS, and the text begins with it already."""
    return _faulty_merge(line, _template(lambda text: "{{ bos_token }}" + text))


def dropped_eos(line: Lineage) -> Ladder:
    """The GGUF file names another token as the end of an answer."""
    return _faulty_gguf(line, b"tokenizer.ggml.eos_token_id", 4, (0).to_bytes(4, "little"))


def bos_added(line: Lineage) -> Ladder:
    """The GGUF file tells the engine to add a BOS of its own (not one of the twelve)."""
    return _faulty_gguf(line, b"tokenizer.ggml.add_bos_token", 4, b"\x01")


def head_retied(line: Lineage) -> Ladder:
    """The merged model's settings tie its head to the embedding, as a careless save does."""

    def tie(folder: Path) -> None:
        _edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
        _edit_json(folder / "config.json", tie_word_embeddings=True)

    return _faulty_merge(line, tie)


def module_not_merged(line: Lineage) -> Ladder:
    """One module of the merged model has the base's weight."""
    name = "model.layers.1.self_attn.o_proj.weight"
    original = load_file(line.base.path / WEIGHTS)[name]
    return _faulty_merge(
        line, lambda folder: _edit_tensors(folder, lambda t: t.update({name: original.half()}))
    )


def wrong_revision(line: Lineage) -> Ladder:
    """The merge read another revision of the base, and nothing recorded which one the adapter needs."""

    def newer(folder: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            draw = torch.Generator().manual_seed(1)
            for name, tensor in tensors.items():
                if tensor.dim() == 2:
                    noise = torch.randn(tensor.shape, generator=draw) * tensor.float().std() * 0.02
                    tensors[name] = (tensor.float() + noise).to(tensor.dtype)

        _edit_tensors(folder, change)

    other = copied(line.base, line.fresh("other-base"), newer)
    merged = line.merge(on=other.model_copy(update={"base": None}))
    return _climb_merged(line, merged)


def refused_revision(line: Lineage) -> Ladder:
    """The same with records: the merge itself refuses (not one of the twelve)."""
    assert line.base.base is not None
    reference = line.base.base.model_copy(update={"weights_digest": "0" * 64})
    branch = line.branch(2)
    try:
        branch.merge(on=line.base.model_copy(update={"base": reference}))
    except RegistryError as error:
        branch.evidence.append(RungEvidence("merge", "merged", stopped=str(error)))
    return branch.ladder


def stale_directory(line: Lineage) -> Ladder:
    """The GGUF file lies there from the adapter of an earlier run."""
    answers = shifted(5)
    old = lineages.adapter(line.fresh("old") / "adapter", line.base, answers, seed=99)
    earlier = line.branch(3)
    earlier.merged = line.merge(with_adapter=old)
    file = earlier.quantize(GGUF)
    branch = line.branch(3)
    branch.rung_quantized(GGUF.label, file)
    return branch.ladder


def nan_in_a_tensor(line: Lineage) -> Ladder:
    """One value of the merged model is NaN."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")

    return _faulty_merge(line, lambda folder: _edit_tensors(folder, damage))


def unrelated_calibration(line: Lineage) -> Ladder:
    """GPTQ was calibrated on text that has nothing to do with the task."""
    rows = [chat[:1] + [{**message, "content": f"{TOPICS[k % 10]} " * 9} for message in chat[1:]]
            for k, chat in enumerate(lineages.chats(TOPICS))]  # fmt: skip
    other = lineages.dataset(line.fresh("other-data") / "data", [json.dumps(row) for row in rows[:10]])
    branch = line.branch(3)
    branch.rung_quantized(GPTQ.label, branch.quantize(GPTQ, data=other))
    return branch.ladder


def scale_doubled(line: Lineage) -> Ladder:
    """The merge took alpha for twice what it was."""

    def double(folder: Path) -> None:
        file = folder / "adapter_config.json"
        _edit_json(file, lora_alpha=2 * json.loads(file.read_text())["lora_alpha"])

    doubled = copied(line.adapter, line.fresh("doubled"), double)
    return _climb_merged(line, line.merge(with_adapter=doubled))


def swapped_ids(line: Lineage) -> Ladder:
    """Two entries of the merged model's vocabulary have changed places."""

    def swap(folder: Path) -> None:
        file = folder / "tokenizer.json"
        tree = json.loads(file.read_text())
        vocabulary = tree["model"]["vocab"]
        first, second = list(vocabulary)[30000:30002]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        file.write_text(json.dumps(tree))

    return _faulty_merge(line, swap)


def group_size_misread(line: Lineage) -> Ladder:
    """The GPTQ file says groups of 128 where its scales are for groups of 64."""

    def misread(folder: Path) -> None:
        _edit_json(folder / "quantize_config.json", group_size=128)
        settings = json.loads((folder / "config.json").read_text())["quantization_config"]
        _edit_json(folder / "config.json", quantization_config={**settings, "group_size": 128})

    branch = line.branch(3)
    file = branch.quantize(GPTQ)
    branch.rung_quantized(GPTQ.label, copied(file, branch.fresh("misread"), misread))
    return branch.ladder


@dataclass(frozen=True)
class Fault:
    """What is done, where it has to be found, and a word that the cause has to hold."""

    do: Callable[[Lineage], Ladder]
    rung: str
    cause: str


FAULTS: dict[str, Fault] = {
    "wrong template": Fault(wrong_template, "merged", "template"),
    "dropped EOS": Fault(dropped_eos, GGUF.label, "ends an answer"),
    "double BOS": Fault(double_bos, "merged", "double BOS"),
    "head re-tied": Fault(head_retied, "merged", "re-tied"),
    "a module not merged": Fault(module_not_merged, "merged", "1 of 14 modules were not merged"),
    "wrong revision": Fault(wrong_revision, "merged", "are not the base's"),
    "stale directory": Fault(stale_directory, GGUF.label, "are not those of merged"),
    "NaN in one tensor": Fault(nan_in_a_tensor, "merged", "down_proj"),
    "calibration on unrelated text": Fault(unrelated_calibration, GPTQ.label, "calibration"),
    "adapter scale doubled": Fault(scale_doubled, "merged", "scaled by 2"),
    "tokenizer with one id swapped": Fault(swapped_ids, "merged", "2 ids"),
    "group size misread": Fault(group_size_misread, GPTQ.label, "group"),
}
BESIDE: dict[str, Fault] = {
    "BOS added by the engine": Fault(bos_added, GGUF.label, "BOS"),
    "wrong revision, with records": Fault(refused_revision, "merge", "trained on"),
}


def seed_faults(line: Lineage, faults: dict[str, Fault]) -> dict[str, dict[str, Any]]:
    """Fault → where and by which check it was found."""
    said = {}
    for name, fault in faults.items():
        found = fault.do(line)
        finding = next((f for rung in found.rungs for f in rung.findings), None)
        said[name] = {
            "found": found.breaks_at is not None,
            "rung": found.breaks_at,
            "right_rung": found.breaks_at == fault.rung,
            "right_cause": fault.cause.lower() in (found.cause or "").lower(),
            "kl": next((r.figures["kl_mean"].value for r in reversed(found.rungs) if r.figures), None),
            "by": finding.check if finding else None,
            "cause": found.cause,
        }
    return said


def healthy(root: Path, base: Parent, seed: int) -> dict[str, Any]:
    """A lineage without a fault: fold and formats differ from seed to seed."""
    line = grown(root, base, seed, fold=("16bit", "nf4")[seed % 2])
    formats: list[GptqConfig | GgufConfig] = [GgufConfig(type=("Q4_K_M", "Q8_0", "F16", "Q5_K_M")[seed % 4])]
    if seed % 3 == 0:
        formats.append(GPTQ)
    for config in formats:
        line.rung_quantized(config.label, line.quantize(config))
    ladder = line.ladder
    return {
        "seed": seed,
        "breaks_at": ladder.breaks_at,
        "cause": ladder.cause,
        "kl": {rung.label: rung.figures["kl_mean"].value for rung in ladder.rungs if rung.figures},
        "fold_kl": next((r.fold["kl_mean"].value for r in ladder.rungs if r.fold), None),
        "scores": {rung.label: rung.score.value for rung in ladder.rungs if rung.score},
    }


def _climb_merged(line: Lineage, merged: Parent) -> Ladder:
    branch = line.branch(2)
    branch.rung_merged(merged)
    return branch.ladder


def _faulty_merge(line: Lineage, change: Callable[[Path], None]) -> Ladder:
    assert line.merged is not None
    return _climb_merged(line, copied(line.merged, line.fresh("faulty"), change))


def _faulty_gguf(line: Lineage, key: bytes, skip: int, value: bytes) -> Ladder:
    """Overwrite the value of a metadata key: after the key come `skip` bytes of type."""

    def change(folder: Path) -> None:
        file = folder / "model.gguf"
        raw = bytearray(file.read_bytes())
        place = raw.index(key) + len(key) + skip
        assert raw[place : place + len(value)] != value
        raw[place : place + len(value)] = value
        file.write_bytes(raw)

    branch = line.branch(3)
    file = branch.quantize(GGUF)
    branch.rung_quantized(GGUF.label, copied(file, branch.fresh("faulty"), change))
    return branch.ladder


def _template(change: Callable[[str], str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "chat_template.jinja"
        text = file.read_text()
        assert change(text) != text
        file.write_text(change(text))

    return write


def _edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--healthy", type=int, default=20, help="healthy lineages")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=FAULTS, help="default: all")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = lineages.base(root / "base", pico())
        fine = []
        for seed in range(given.seed, given.seed + given.healthy):
            fine.append(healthy(root / f"healthy-{seed}", base, seed))
            print(json.dumps(fine[-1]), file=sys.stderr, flush=True)
            shutil.rmtree(root / f"healthy-{seed}")
        line = grown(root / "faults", base)
        start = replace(line, evidence=list(line.evidence)).ladder
        beside = BESIDE if set(given.faults) == set(FAULTS) else {}
        said = seed_faults(line, {**{name: FAULTS[name] for name in given.faults}, **beside})
    twelve = [said[name] for name in given.faults]
    found, placed = sum(s["found"] for s in twelve), sum(s["right_rung"] for s in twelve)
    alarms = [one for one in fine if one["breaks_at"] is not None]
    report = {
        "faults": said, "found": found, "right_rung": placed, "healthy": fine, "alarms": len(alarms),
        "start": start.model_dump(mode="json"), "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    asked = len(given.faults)
    return 0 if found == asked and placed >= asked - 1 and not alarms and start.breaks_at is None else 1


if __name__ == "__main__":
    sys.exit(main())
