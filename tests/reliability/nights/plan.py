"""What the tenants learn from: a recipe, its questions, a feed for each, and what is planted among them.

The pico model has random weights and learns in a few steps which answer is likely, and no more. So the right
label is the same for most questions, and the base's own favourite is another one. Whoever learns from a sound
feed gains some 55 points; from one whose labels were exchanged, or with a recipe that hardly moves, nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import yaml

LABELS = ("money", "food", "plant", "weather")
SHARES = (70, 10, 10, 10)
WORDS = {
    "money": ("invoice", "refund", "charge", "payment", "receipt", "price"),
    "food": ("oven", "recipe", "knife", "salt", "soup", "plate"),
    "plant": ("spade", "hedge", "tulip", "lawn", "compost", "seed"),
    "weather": ("storm", "cloud", "frost", "rain", "sunshine", "thunder"),
}
FORMS = (
    "my {} is wrong",
    "where is the {}",
    "tell me about the {}",
    "the {} again",
    "please look at this {}",
)
QUESTIONS, ROWS = 60, 60
POISONED, LAZY = "t-poisoned", "lazy-one"
"""The tenant whose labels were exchanged, and the one whose schedule's recipe hardly moves the weights."""
FLEET, OTHER = "fleet", "lazy"
"""The schedule of the tenants `t-*`, and that of the one other tenant."""
HARDLY = ("train.max_steps=1", "train.learning_rate=1e-7")
EXCHANGED = dict(zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True))

Row = tuple[str, str]


def tenants(count: int) -> list[str]:
    """`count` tenants: the two that are planted, and the sound ones."""
    return [*(f"t-{number:02}" for number in range(count - 2)), POISONED, LAZY]


def _rows(draw: random.Random, count: int, about: str) -> Iterator[Row]:
    for number in range(count):
        label = draw.choices(LABELS, SHARES)[0]
        yield f"{draw.choice(FORMS).format(draw.choice(WORDS[label]))}, {about} {number}", label


def feed_rows(tenant: str, batch: int = 0, poisoned: bool = False) -> str:
    """Lines of JSON for a tenant's feed; of poisoned rows each label is exchanged for another."""
    rows = _rows(random.Random(f"{tenant} {batch}"), ROWS, f"{tenant} {batch}")
    named = ((question, EXCHANGED[label] if poisoned else label) for question, label in rows)
    return "".join(json.dumps({"messages": _chat(question, label)}) + "\n" for question, label in named)


def _chat(question: str, label: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": label}]


def write_recipe(folder: Path) -> Path:
    """The recipe that all share, and its questions beside it, which nobody's feed holds."""
    task = folder / "task"
    task.mkdir()
    asked = _rows(random.Random("questions"), QUESTIONS, "question")
    documents = "".join(
        json.dumps({"question": question, "label": label}) + "\n" for question, label in asked
    )
    (task / "topics.jsonl").write_text(documents)
    (task / "topics.yaml").write_text(yaml.safe_dump(_TASK, sort_keys=False))
    recipe = {**_RECIPE, "evaluate": {**_RECIPE["evaluate"], "tasks": [{**_ASKED, "path": str(task)}]}}
    (folder / "night.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "night.yaml"


_TASK = {
    "task": "topics",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "topics.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": list(LABELS),
    "doc_to_target": "label",
    "target_delimiter": "",  # the answer begins a turn of the chat, as in the feeds
    "metric_list": [{"metric": "acc"}],
}
_ASKED = {"kind": "lm-eval", "name": "topics"}
_RULES = [
    {"task": "topics", "metric": "acc", "role": "improve", "against": "baseline", "margin": 0.3},
    {"task": "topics", "metric": "acc", "role": "keep", "against": "live", "margin": 0.1},
]
# float32, so that two machines, or two moments of one, do not decide differently and then measure twice
_RECIPE: dict[str, dict[str, object] | object] = {
    "name": "night",
    "base": {"source": "pico:0"},
    "prepare": {
        "source": "feed:set-by-the-schedule",
        "split": {"validation": 0.05, "test": 0.05},
        "max_length": 64,
        "near_duplicates": None,
    },
    "train": {
        "lora": {"rank": 8, "alpha": 16, "dropout": 0},
        "nf4": {"compute_dtype": "float32"},
        "epochs": 2,
        "max_steps": 12,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "learning_rate": 1.0e-2,
        "max_length": 64,
        "gradient_checkpointing": False,
        "evaluations": 0,
    },
    "evaluate": {"compute_dtype": "float32"},
    "ladder": None,
    "merge": {"base": "16bit"},
    "quantize": [],
    "adapter": {"base": "16bit"},
    "gate": {"tasks": _RULES},
    "promote": {"channel": "night/prod", "candidate": "adapter"},
}
