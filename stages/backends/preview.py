"""What only the libraries know of a recipe before it runs: `python -m stages.backends.preview`.

Takes a job as JSON on standard input and answers with JSON on standard output: `problems` (a sentence each)
and `metrics` (of each lm-eval task, by name). No weight is read: the model is built without memory for any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.errors import StageError
from stages.evaluate import LmEvalTask
from stages.train import LoraConfig


def main() -> int:
    job = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    problems: list[str] = []
    metrics: dict[str, list[str]] = {}
    if job["lora"] is not None:
        problems += _layers(job["source"], LoraConfig.model_validate(job["lora"]))
    for number, settings in job["tasks"].items():
        task = LmEvalTask.model_validate(settings)
        try:
            metrics[task.name] = _metrics(task)
        except StageError as error:
            problems.append(f"evaluate.tasks.{number}: {error}")
            continue
        if task.metric not in metrics[task.name]:
            known = ", ".join(metrics[task.name])
            problems.append(f"evaluate.tasks.{number}.metric: {task.name} has no {task.metric}, but {known}")
    answers.write(json.dumps({"problems": problems, "metrics": metrics}))
    return 0


def _layers(source: str, lora: LoraConfig) -> Iterator[str]:
    """Names in the adapter's settings that the base has no module of, and a rank beyond every layer."""
    from stages.backends.lora import check_saved_modules, target_layers

    model = _without_weights(source)
    for name in lora.modules_to_save:
        try:
            check_saved_modules(model, (name,))
        except StageError as error:
            yield str(error)
    endings = (lora.target_modules,) if isinstance(lora.target_modules, str) else lora.target_modules
    chosen: list[str] = []
    for ending in endings:
        try:
            chosen += target_layers(model, ending if ending == "all-linear" else (ending,))
        except StageError as error:
            yield str(error)
    if not chosen and lora.target_modules == "all-linear":
        yield f"base.source: {type(model).__name__} has no linear layers, so no adapter can be trained for it"
    widths = [min(model.get_submodule(name).weight.shape) for name in chosen]
    if widths and lora.rank > max(widths):
        yield (
            f"train.lora.rank: {lora.rank} is more than the narrower side of every layer that gets an "
            f"adapter (at most {max(widths)}): such an adapter has more parameters than the layers it changes"
        )


def _without_weights(source: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    scheme, _, place = source.partition(":")
    if scheme == "pico":
        from stages.model_shape import PICO

        config = AutoConfig.for_model(**{k: v for k, v in PICO.items() if k != "architectures"})
    elif scheme == "package":
        from stages.backends.gguf_files import packaged_gguf

        file = packaged_gguf(place)
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    elif scheme == "hub":
        name, _, revision = place.partition("@")
        config = AutoConfig.from_pretrained(name, revision=revision or None, trust_remote_code=False)
    else:
        folder = Path(place).expanduser()
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _metrics(task: LmEvalTask) -> list[str]:
    """The names under which lm-eval logs the scores of an item: a metric, with the filter that it is of."""
    from stages.backends.harness import load_task

    loaded = load_task(task)
    names = [str(one["metric"]) for one in loaded.config.metric_list or ()]
    filters = [one["name"] for one in loaded.config.filter_list or ()] or ["none"]
    return [name if kind == "none" else f"{name},{kind}" for kind in filters for name in names]


if __name__ == "__main__":
    sys.exit(main())
