"""What the tests of both quantization methods share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contract import Facts, Parent

TEXT = "The capital of France is Paris, and 12 + 30 = 42.\n"


def dataset_of(folder: Path, rows: int, answer: str = "topic") -> Parent:
    folder.mkdir(parents=True, exist_ok=True)
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What is text number {k} about, with {k * k % 97} words in it?"},
                {"role": "assistant", "content": f"{answer} {k % 7}"},
            ]
        }
        for k in range(rows)
    ]
    pq.write_table(pa.Table.from_pylist(chats), folder / "train.parquet")
    return Parent(id=hashlib.sha256(str(rows).encode()).hexdigest(), kind="dataset", path=folder)


def hf_logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt", add_special_tokens=False).input_ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids).logits[0].float()


def kl(parent: Any, child: Any) -> float:
    """Mean over the tokens of KL(parent ‖ child), in nats."""
    import torch.nn.functional as F

    log_p, log_q = F.log_softmax(parent, -1), F.log_softmax(child, -1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def effective_of(facts: Facts) -> dict[str, Any]:
    assert facts.quant is not None
    return facts.quant.effective
