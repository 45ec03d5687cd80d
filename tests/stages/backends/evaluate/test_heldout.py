"""What is taught is what is scored: whoever writes exactly what training's labels are must score 1."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stages.backends import chat
from stages.backends.evaluate.heldout import HeldoutItems
from stages.backends.evaluate.lm_eval_tasks import run_task
from stages.backends.evaluate.token_lm import Row, TokenLM
from stages.config.evaluate import HeldoutTask
from stages.contract import Parent
from stages.errors import InvalidInput

HEADER = "<|im_start|>{{ m.role }}\n"
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(before: str, content: str = "{{ m.content }}") -> str:
    """ChatML with fixed text before each answer."""
    begin = f"{{% if m.role == 'assistant' %}}{before}{{% endif %}}"
    return f"{{% for m in messages %}}{HEADER}{begin}{content}<|im_end|>\n{{% endfor %}}{GENERATION}"


ODD = {
    "an empty thought": chatml("[thought: none] "),
    "an empty thought of lines": chatml("<think>\n\n</think>\n\n"),
    "a channel in control tokens": chatml("<|channel|>final<|message|>"),
    "the answer's own word before it": chatml("[yes or no?] "),
    "trimmed answers": chatml("", "{{ m.content | trim }}"),
    "rewritten answers": chatml("", "{{ m.content | replace('o', '0') }}"),
    "a header that ends with a space": (
        "{% for m in messages %}### {{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}### assistant: {% endif %}"
    ),
    "a line end before an answer": chatml("\n"),
    "a header that ends with an empty line": chatml("")
    .replace("{{ m.role }}\n", "{{ m.role }}\n\n")
    .replace("assistant\n{% endif", "assistant\n\n{% endif"),
    "marked with generation": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}[thought: none] {{ m.content }}<|im_end|>{% endgeneration %}\n"
        "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + GENERATION
    ),
    "a space before an answer": chatml(" "),
}
SHIPPED = (
    "cohere2", "diffusion_gemma_training", "gemma", "gemma4_v5", "glm4moe_training", "gptoss", "lfm2",
    "llama3", "llama3_2", "muse_glimmer", "phi3", "phi3_5_training", "qwen2_5_training", "qwen3",
    "qwen3_5_nothink_training", "qwen3_8", "qwen3_instruct_2507",
)  # fmt: skip
"""Chat templates of real models that TRL carries."""
REFUSED = {
    "deepseek_r1_distill": "asks for an answer after .*<think>",
    "deepseekv3_training": "asks for an answer after .*<think>",
    "nemotron_3_nano": "asks for an answer after .*<think>",
    "nemotron_3_super_training": "asks for an answer after .*<think>",
    "glm4moe": "never stops",
    "llava_next": "refuses the roles",
}
"""What these ask for is not what their answers follow: nothing that is learned could be asked for."""


class Parrot(TokenLM):
    """Knows the labels by heart: after each beginning of a chat, the next token that training taught."""

    def __init__(self, tokenizer: Any, chats: Sequence[Sequence[chat.Message]]) -> None:
        super().__init__(
            tokenizer, max_length=4096, batch_size=64, stop_ids=chat.end_tokens(tokenizer), rendered=True
        )
        self._next: dict[Row, int] = {}
        for messages in chats:
            ids, mask = chat.encode_with_mask(tokenizer, messages)
            self._next |= {tuple(ids[:k]): ids[k] for k, learned in enumerate(mask) if learned}
        self._rows: list[Row] = []

    def _tokenize(self, text: str, special: bool) -> Row:
        return tuple(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def tok_decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _after(self, row: Row) -> torch.Tensor:
        logits = torch.zeros(len(self.tokenizer))
        logits[self._next.get(row, 0)] = 30.0
        return logits

    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        self._rows = list(rows)
        return torch.stack([self._after(row) for row in rows])

    def _add(self, kept: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        return self._read([(*self._rows[k], token) for k, token in zip(kept, tokens, strict=True)])

    def _branch(self, parents: Sequence[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        starts = [self._rows[parent] for parent in parents]
        return [
            torch.stack([self._after((*start, *row[: k + 1])) for k in range(len(row))])
            for start, row in zip(starts, rows, strict=True)
        ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("dataset")
    answers = ["yes", "no", "none of both", "yes"]
    rows = [
        [{"role": "user", "content": f"Is {k} even?"}, {"role": "assistant", "content": answer}]
        for k, answer in enumerate(answers)
    ]
    for split in ("train", "test"):
        pq.write_table(pa.table({"messages": rows}), folder / f"{split}.parquet")
    return Parent(id="0" * 64, kind="dataset", path=folder)


@pytest.fixture(scope="module")
def plain(pico_base: Parent) -> Any:
    return chat.load_tokenizer(pico_base.path)


def speaking(plain: Any, template: str) -> Any:
    """SmolLM2's tokenizer with a template, what stands there in brackets being control tokens."""
    tokenizer = copy.deepcopy(plain)
    marks = set(
        re.findall(r"<[|｜][^<>{}\s']{1,24}[|｜]>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>", template)
    )
    added = {"additional_special_tokens": sorted(marks), "bos_token": "<|begin of chat|>"}
    tokenizer.add_special_tokens(added)
    tokenizer.chat_template = template
    return tokenizer


def carried(name: str) -> str:
    return files("trl").joinpath("chat_templates", f"{name}.jinja").read_text("utf-8")


def scores(tokenizer: Any, dataset: Parent, out: Path) -> dict[str, float]:
    rows = pq.read_table(dataset.path / "test.parquet")["messages"].to_pylist()
    lm = Parrot(tokenizer, rows)
    task = HeldoutTask(name="heldout", choice=True, max_new_tokens=64)
    found = run_task(lm, task, dataset, 0, out)
    return {name: metric["value"] for name, metric in found["metrics"].items()}


def test_with_the_template_of_the_demo(plain: Any, dataset: Parent, tmp_path: Path) -> None:
    assert scores(plain, dataset, tmp_path) == {"exact_match": 1.0, "choice_acc": 1.0}


@pytest.mark.parametrize("name", ODD)
def test_with_an_odd_template(name: str, plain: Any, dataset: Parent, tmp_path: Path) -> None:
    tokenizer = speaking(plain, ODD[name])
    chat.require_trainable_template(tokenizer)
    assert scores(tokenizer, dataset, tmp_path) == {"exact_match": 1.0, "choice_acc": 1.0}


@pytest.mark.parametrize("name", SHIPPED)
def test_with_the_template_of_a_real_model(name: str, plain: Any, dataset: Parent, tmp_path: Path) -> None:
    tokenizer = speaking(plain, carried(name))
    chat.require_trainable_template(tokenizer)
    assert scores(tokenizer, dataset, tmp_path) == {"exact_match": 1.0, "choice_acc": 1.0}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_for_is_not_learned(name: str, plain: Any) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){REFUSED[name]}"):
        chat.require_trainable_template(speaking(plain, carried(name)))


def test_an_answer_without_the_fixed_text_is_right_too(plain: Any, dataset: Parent) -> None:
    """An untuned model does not know what the template writes before an answer."""
    tokenizer = speaking(plain, ODD["an empty thought"])
    rows = pq.read_table(dataset.path / "test.parquet")["messages"].to_pylist()
    items = HeldoutItems(HeldoutTask(name="heldout"), dataset.path, Parrot(tokenizer, rows))
    document = items.dataset["test"][0]
    said = {text: items.process_results(document, [text]) for text in ("yes", "[thought: none] yes", "no")}
    assert [found["exact_match"] for found in said.values()] == [1.0, 1.0, 0.0]


def test_other_tasks_are_asked_as_in_training_too(plain: Any) -> None:
    lm = Parrot(speaking(plain, ODD["an empty thought"]), [])
    assert lm.apply_chat_template([{"role": "user", "content": "Q"}]).endswith("assistant\n[thought: none] ")


def test_a_task_on_the_test_split_is_written_as_before_there_were_others() -> None:
    assert "split" not in HeldoutTask().model_dump(mode="json"), "or every earlier evaluation is made again"
    assert HeldoutTask(split="fresh").model_dump(mode="json")["split"] == "fresh"


def test_the_fresh_split_is_judged_by_itself(plain: Any, dataset: Parent, tmp_path: Path) -> None:
    task, grown = HeldoutTask(name="new", split="fresh", choice=True), tmp_path / "grown"
    lm = Parrot(plain, [])
    with pytest.raises(InvalidInput, match="a feed, the only source"):
        HeldoutItems(task, dataset.path, lm)
    shutil.copytree(dataset.path, grown)
    rows = [[{"role": "user", "content": "Is 9 odd?"}, {"role": "assistant", "content": "surely"}]]
    for kept in (rows, []):
        table = pa.table({"messages": pa.array(kept, pq.read_schema(grown / "test.parquet").field(0).type)})
        pq.write_table(table, grown / "fresh.parquet")
        if kept:
            found = run_task(lm, task, dataset.model_copy(update={"path": grown}), 0, tmp_path)
            assert found["words"] == f"1 items of the fresh split of dataset {dataset.id[:12]}"
            assert found["choice"] is not None
            assert "surely" in found["choice"]["answers"]
    with pytest.raises(InvalidInput, match="add rows to the feed"):
        HeldoutItems(task, grown, lm)


def test_whoever_asks_the_validation_split_sees_no_other_held_out_row(
    plain: Any, dataset: Parent, tmp_path: Path
) -> None:
    task, whole = HeldoutTask(name="chosen", split="validation", choice=True), tmp_path / "whole"
    lm = Parrot(plain, [])
    with pytest.raises(InvalidInput, match=r"validation\.parquet is not in the dataset"):
        HeldoutItems(task, dataset.path, lm)
    shutil.copytree(dataset.path, whole)
    kind = pq.read_schema(whole / "test.parquet").field(0).type
    asked = {
        "train": [("Is 2 odd?", "no"), ("Is 3 odd?", "yes")],
        "validation": [("Is 5 odd?", "surely")],
        "test": [("Is 7 odd?", "a test answer")],
    }
    for name, rows in asked.items():
        chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
        pq.write_table(pa.table({"messages": pa.array(chats, kind)}), whole / f"{name}.parquet")
    found = run_task(lm, task, dataset.model_copy(update={"path": whole}), 0, tmp_path)
    assert found["words"] == f"1 items of the validation split of dataset {dataset.id[:12]}"
    assert found["config"]["split"] == "validation"
    assert found["choice"] is not None
    assert found["choice"]["answers"] == ["no", "surely", "yes"]
    empty = pa.table({"messages": pa.array([], kind)})
    pq.write_table(empty, whole / "validation.parquet")
    with pytest.raises(InvalidInput, match=r"the dataset.s validation split is empty; prepare it"):
        HeldoutItems(task, whole, lm)
