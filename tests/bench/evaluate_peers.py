"""The ladder's evaluations beside separate `lm_eval` commands: the same models, items and answers.

    python -m tests.bench.evaluate_peers [--model 135m] [--items 231] [--repeat 1] [--batch 16]

The models are the demo's: SmolLM2-135M as NF4, the same with an adapter, merged, and as GGUF Q8_0. The
adapter is trained for a few steps only: what an evaluation costs hardly depends on it. Tuneline's is the
`evaluate` stage on the demo's task, without its questions and fidelity, each form in a fork of one process
that imported once, as in a run; what a run adds (Prefect, the registry) is not counted. lm-eval's is
`python -m lm_eval run --model hf` for each form, on two YAML tasks over one JSONL file, with the prompts
rendered beforehand: `generate_until`, and `multiple_choice` over the same contexts and continuations. Both
times are those of whole processes, with imports and loading. The bar is twice lm-eval's speed over all forms,
and the same figures; `--repeat` measures in turns and takes medians.

Both compute in what `compute_dtype: auto` says of this machine. lm-eval's `auto` batch starts with 64 rows of
the model's whole context, more than a CPU's memory holds, so both have a fixed one. transformers 5 does not
know lm-eval's `load_in_4bit`, so its NF4 model is a directory that transformers saved. lm-eval's `gguf`
backend counts characters without those of special tokens and ends in an IndexError on every chat, so it gets
the GGUF through transformers, which computes in 16 or 32 bits where llama.cpp rounds activations to 8.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.recipe import Recipe, load
from flows.run.child import WarmWorker, child_environment, run_in_child
from registry.artifacts import digest
from stages.backends.arithmetic import measure
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.contract import Parent
from tests.bench.results import Report

NF4, ADAPTED, MERGED, GGUF = FORMS = ("base NF4", "tuned NF4 + adapter", "merged", "GGUF Q8_0")
TASK, CHOICE = "routing", "routing_choice"
SOURCES = {"135m": [], "pico": ["base.source=pico:0"]}
QUICK = ["train.evaluations=1", "ladder=null", "evaluate.questions=[]"]
BAR = 2.0
SAVE_NF4 = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
base, out, dtype = sys.argv[1:]
nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
)
model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, quantization_config=nf4, device_map="cpu")
model.save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""


@dataclass(frozen=True)
class Evaluated:
    """Seconds of the process; of each item, by its place: is the answer right, and is the likeliest one?"""

    seconds: float
    exact: Sequence[float]
    choice: Sequence[float]


def make(recipe: Recipe, folder: Path, dtype: str) -> dict[str, Parent]:
    """The models and the dataset, by what they are called here, and lm-eval's `nf4` directory beside them."""
    made: dict[str, Parent] = {}
    with WarmWorker(folder / "logs" / "worker") as worker:

        def stage(name: str, verb: str, config: Any, **parents: Parent) -> Parent:
            out = folder / name
            out.mkdir()
            done = run_in_child(verb, parents, config, out, folder / "logs" / name, lambda _: None, worker)
            return Parent.model_validate({"id": digest(name), "path": out, **done.facts})

        made["base"] = base = stage("base", "resolve", recipe.base)
        made["data"] = data = stage("data", "prepare", recipe.prepare, base=base)
        adapter = stage("adapter", "train", recipe.train, base=base, dataset=data)
        made["adapter"] = adapter
        made["merged"] = stage("merged", "merge", recipe.merge, base=base, adapter=adapter)
        made["gguf"] = stage("gguf", "quantize", recipe.quantize[-1], model=made["merged"])
    words = [sys.executable, "-W", "ignore", "-c", SAVE_NF4, str(base.path), str(folder / "nf4"), dtype]
    subprocess.run(words, check=True, env=environment(folder), stdout=subprocess.DEVNULL)
    return made


def environment(folder: Path) -> dict[str, str]:
    """The threads that our stages have, and nothing downloaded or kept elsewhere."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    return {**child_environment(), **offline, "CUDA_VISIBLE_DEVICES": ""}


def ours(made: Mapping[str, Parent], config: EvaluateConfig, folder: Path) -> dict[str, Evaluated]:
    """Each form in a fork; the first one's time has the imports that all share."""
    plain = config.model_copy(update={"nf4": None})
    base = {"base": made["base"]}
    forms: dict[str, tuple[EvaluateConfig, dict[str, Parent]]] = {
        NF4: (config, {"model": made["base"]}),
        ADAPTED: (config, {"model": made["base"], "adapter": made["adapter"], **base}),
        MERGED: (plain, {"model": made["merged"], **base}),
        GGUF: (plain, {"model": made["gguf"], **base}),
    }
    found = {}
    with WarmWorker(folder / "worker") as worker:
        for form, (settings, parents) in forms.items():
            out = folder / form
            out.mkdir(parents=True)
            given = {**parents, "dataset": made["data"]}
            began = time.perf_counter()
            run_in_child("evaluate", given, settings, out, folder / f"{form}.log", lambda _: None, worker)
            seconds = time.perf_counter() - began
            scores = [row["scores"] for row in rows_of(out / f"samples_{TASK}.jsonl", "document")]
            exact, choice = ([s[name] for s in scores] for name in ("exact_match", "choice_acc"))
            found[form] = Evaluated(seconds, exact, choice)
    return found


def rows_of(file: Path, place: str) -> list[dict[str, Any]]:
    rows = map(json.loads, file.read_text("utf-8").splitlines())
    return sorted(rows, key=lambda row: int(row[place]))


def write_tasks(made: Mapping[str, Parent], results: Path, task: HeldoutTask, folder: Path) -> None:
    """lm-eval's two tasks, of the contexts and continuations that our `results` (results.json) say."""
    from stages.backends.chat import last_turn, load_tokenizer
    from stages.backends.evaluate.prompts import items_of

    choice = json.loads(results.read_text("utf-8"))["tasks"][TASK]["choice"]
    prefix, suffix, answers = choice["prefix"], choice["suffix"], choice["answers"]
    middles = [answer.removeprefix(prefix).removesuffix(suffix) for answer in answers]
    tokenizer = load_tokenizer(made["base"].path)
    documents = []
    for item in items_of(task, made["data"].path):
        turn = last_turn(tokenizer, item.messages)
        assert not turn.apart
        right = item.references[0]
        documents.append(
            {
                "prompt": turn.prompt, "target": right, "context": turn.prompt + turn.opening + prefix,
                "choices": middles, "right": answers.index(right),
            }
        )  # fmt: skip
    folder.mkdir()
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n", "utf-8")
    generation = {"until": [], "max_gen_toks": task.max_new_tokens, "do_sample": False}
    data = {"data_files": {"test": str(folder / "items.jsonl")}}
    shared = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test", "target_delimiter": ""}
    tasks: dict[str, dict[str, Any]] = {
        TASK: {"output_type": "generate_until", "doc_to_text": "prompt", "doc_to_target": "target",
               "generation_kwargs": generation, "metric_list": [{"metric": "exact_match"}]},
        CHOICE: {"output_type": "multiple_choice", "doc_to_text": "context", "doc_to_target": "right",
                 "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}]},
    }  # fmt: skip
    for name, own in tasks.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **shared, **own}), "utf-8")


def theirs(
    form: str, made: Mapping[str, Parent], folder: Path, out: Path, given: argparse.Namespace
) -> Evaluated:
    """`lm_eval` in a process of its own."""
    base = made["base"].path
    models: dict[str, dict[str, object]] = {
        NF4: {"pretrained": folder / "nf4"},
        ADAPTED: {"pretrained": folder / "nf4", "peft": made["adapter"].path},
        MERGED: {"pretrained": made["merged"].path},
        GGUF: {"pretrained": made["gguf"].path, "gguf_file": "model.gguf", "tokenizer": base},
    }
    arguments = ",".join(f"{key}={value}" for key, value in models[form].items())
    words = [sys.executable, "-W", "ignore", "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    words += ["--model_args", f"{arguments},dtype={given.dtype}", "--batch_size", str(given.batch)]
    words += ["--include_path", str(folder / "tasks"), "--tasks", TASK, CHOICE]
    words += ["--log_samples", "--output_path", str(out)]
    began = time.perf_counter()
    done = subprocess.run(words, env=environment(folder), cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"lm_eval failed on {form}:\n{done.stderr[-3000:]}")
    exact, choice = (
        [float(row[metric]) for row in rows_of(next(out.rglob(f"samples_{name}_2*.jsonl")), "doc_id")]
        for name, metric in ((TASK, "exact_match"), (CHOICE, "acc"))
    )
    return Evaluated(seconds, exact, choice)


def show(report: Report, title: str, runs: Sequence[tuple[Mapping[str, Evaluated], ...]]) -> None:
    """A row for each form and for all together; behind where we are slower, or score an item otherwise."""
    sums = []
    for form in FORMS:
        own, other = ([run[who][form] for run in runs] for who in (0, 1))
        seconds = [statistics.median(found.seconds for found in side) for side in (own, other)]
        sums.append(seconds)
        a, b = own[0], other[0]
        differing = {
            name: sum(x != y for x, y in zip(getattr(a, name), getattr(b, name), strict=True))
            for name in ("exact", "choice")
        }
        figures = {
            "exact match, ours": statistics.mean(a.exact),
            "lm-eval's": statistics.mean(b.exact),
            "choice, ours": statistics.mean(a.choice),
            "lm-eval's choice": statistics.mean(b.choice),
            "items that differ, exact": differing["exact"],
            "items that differ, choice": differing["choice"],
        }
        report.row(title, times(form, *seconds) | figures, seconds[1] < seconds[0] or any(differing.values()))
    whole = [sum(column) for column in zip(*sums, strict=True)]
    report.row(title, times("all", *whole), behind=whole[1] < BAR * whole[0])
    report.note(
        title,
        "Seconds of whole processes; the first of ours has the imports of all. The bar is "
        f"{BAR:g} times lm-eval's speed for all together, and no item scored otherwise.",
    )


def times(form: str, own: float, other: float) -> dict[str, str | float]:
    return {"form": form, "tuneline (s)": own, "lm-eval (s)": other, "lm-eval / tuneline": other / own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SOURCES, default="135m")
    parser.add_argument("--items", type=int, default=231, help="first items of the test split")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--batch", type=int, default=16, help="items or rows at a time, of both")
    parser.add_argument("--steps", type=int, default=10, help="of training; more for answers that are right")
    parser.add_argument("--repeat", type=int, default=1, help="turns, of which the medians count")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    if given.dtype == "auto":
        given.dtype = measure().compute_dtype
    recipe = load("demo", [*SOURCES[given.model], *QUICK, f"train.max_steps={given.steps}"])
    (demo,) = recipe.evaluate.tasks
    assert isinstance(demo, HeldoutTask)
    task = demo.model_copy(update={"max_items": given.items})
    nf4 = recipe.train.nf4.model_copy(update={"compute_dtype": given.dtype})
    config = EvaluateConfig(tasks=(task,), batch_size=given.batch, compute_dtype=given.dtype, nf4=nf4)
    packages = ("lm-eval", "torch", "transformers", "peft", "bitsandbytes", "llama-cpp-python")
    with Report("evaluate_peers", *packages) as report, tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        made = make(recipe, folder, given.dtype)
        runs = []
        for number in range(given.repeat):
            turn = folder / f"turn-{number}"
            own = ours(made, config, turn / "ours")
            if not number:
                write_tasks(made, turn / "ours" / NF4 / "results.json", task, folder / "tasks")
            other = {form: theirs(form, made, folder, turn / "lm-eval" / form, given) for form in FORMS}
            runs.append((own, other))
        show(report, f"{given.model}, {given.items} items, {given.dtype}, {given.batch} at a time", runs)


if __name__ == "__main__":
    main()
