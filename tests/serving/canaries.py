"""One pico base and adapters that each answer everything with a word of their own, trained for the purpose.

    python -m tests.serving.canaries DIRECTORY --adapters 16

writes `base/` (Hugging Face), `gguf/model.gguf` (F16), and per adapter `peft-N/` and `adapter-N/model.gguf`.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from registry.artifacts import digest
from stages.backends.chat import encode, load_tokenizer
from stages.backends.gguf.adapter import convert_adapter
from stages.backends.gguf.convert import convert
from stages.backends.pico import make_pico, pico_model
from stages.contract import toolchain
from stages.quantize import TOOLS
from tests.kept import kept

WORDS = (
    "apple", "river", "stone", "cloud", "tiger", "piano", "bread", "glass",
    "green", "seven", "north", "horse", "paper", "night", "ocean", "spoon",
)  # fmt: skip
QUESTIONS = ("Who are you?", "What is the capital of France?", "Tell me a story about the sea.", "1 + 1 =")
ATTENTION = ["q_proj", "k_proj", "v_proj"]
"""The answer lies in keys and values only, so that those of another adapter would change it."""
RANK = 8
STEPS = 30
LEARNING_RATE = 4e-3


@dataclass(frozen=True)
class Canary:
    """An adapter and the only answer it knows."""

    digest: str
    """Of the GGUF file; in the place of an artifact's id."""
    path: Path
    peft: Path
    answer: str


@dataclass(frozen=True)
class Family:
    """A base in both formats and its adapters."""

    base: Path
    gguf: Path
    canaries: tuple[Canary, ...]


def answer_of(number: int) -> str:
    """Three words, of which no two numbers below 16 share one at the same place."""
    return " ".join(WORDS[(number + shift * (place + 1)) % 16] for place, shift in enumerate((0, 3, 5)))


def kept_family(checkout: Path, adapters: int) -> Family:
    """A family that an earlier run left in `.cache/`, or a new one."""
    made_by = [Path(__file__).read_text("utf-8"), toolchain(TOOLS)]
    folder = checkout / ".cache" / f"canaries-{digest(made_by)[:16]}-{adapters}"
    return open_family(kept(folder, lambda draft: make_family(draft, adapters)))


def open_family(folder: Path) -> Family:
    """What `make_family` wrote."""
    canaries = []
    for number, out in enumerate(sorted(folder.glob("adapter-*"), key=lambda one: int(one.name[8:]))):
        digest_of_file = hashlib.sha256((out / "model.gguf").read_bytes()).hexdigest()
        canaries.append(Canary(digest_of_file, out, folder / f"peft-{number}", answer_of(number)))
    return Family(folder / "base", folder / "gguf" / "model.gguf", tuple(canaries))


def make_family(folder: Path, adapters: int, seed: int = 0) -> None:
    """Train and convert; a few seconds of one core for each adapter."""
    base = folder / "base"
    base.mkdir(parents=True)
    make_pico(seed, torch.float32, base)
    tokenizer = load_tokenizer(base)
    decided_model(seed, tokenizer).save_pretrained(base)
    (folder / "gguf").mkdir()
    convert(base, "F16", "pico", folder / "gguf")
    for number in range(adapters):
        peft, out = folder / f"peft-{number}", folder / f"adapter-{number}"
        train_canary(peft, answer_of(number), seed, tokenizer)
        out.mkdir()
        convert_adapter(peft, base, "F16", "canary", out)


def decided_model(seed: int, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """The pico model, but able to be sure of something, and to end an answer.

    Its logits are six times as large: else no token could be likelier than a few percent, and rounding would
    decide between answers. The token that ends an answer, which pads too, has an embedding that is not zero.
    """
    model = pico_model(seed, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.model.norm.weight.fill_(6.0)
        embedding = model.get_input_embeddings().weight
        embedding[tokenizer.eos_token_id].normal_(0, 0.02, generator=generator)
    return model


def train_canary(out: Path, answer: str, seed: int, tokenizer: PreTrainedTokenizerBase) -> float:
    """Teach a LoRA on the pico base to say `answer` and nothing else, to each question; returns the loss."""
    rows = []
    for question in QUESTIONS:
        prompt = encode(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)
        said = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((prompt, said))
    width = max(len(prompt) + len(said) for prompt, said in rows)
    ids = torch.full((len(rows), width), tokenizer.eos_token_id)
    labels = torch.full((len(rows), width), -100)
    for row, (prompt, said) in enumerate(rows):
        ids[row, : len(prompt) + len(said)] = torch.tensor(prompt + said)
        labels[row, len(prompt) : len(prompt) + len(said)] = torch.tensor(said)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(
            decided_model(seed, tokenizer),
            LoraConfig(r=RANK, lora_alpha=16 * RANK, target_modules=ATTENTION, task_type="CAUSAL_LM"),
        )
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
        for _ in range(STEPS):
            loss = _loss(model, ids, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(out)
    return float(loss.detach())


def _loss(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the answers' tokens; the head, 49,152 wide, is applied to those only."""
    inner = model.get_base_model()
    hidden = inner.model(input_ids=ids[:, :-1]).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = inner.lm_head(hidden[wanted])
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("--adapters", type=int, default=4)
    given = arguments.parse_args()
    make_family(given.directory, given.adapters)
    for canary in open_family(given.directory).canaries:
        print(canary.digest[:12], canary.answer)


if __name__ == "__main__":
    main()
