"""What only the libraries know of a recipe before it runs: `python -m stages.backends.preview`.

Takes a job as JSON on standard input and answers with JSON on standard output: `problems` (a sentence each)
and `metrics` (of each lm-eval task, by name). No weight is read: the model is built without memory for any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.artifacts import JsonObject
from stages.backends.tokenizer import quickly
from stages.config.evaluate import LmEvalTask
from stages.config.lora import LoraConfig
from stages.errors import StageError


def main() -> int:
    job = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    with quickly():
        import transformers.models.auto.modeling_auto  # noqa: F401
    problems: list[str] = []
    metrics: dict[str, list[str]] = {}
    if job["lora"] is not None:
        problems += layers_amiss(job["source"], LoraConfig.model_validate(job["lora"]))
    if job["packing"]:
        problems += rows_mixed(job["source"])
    problems += _tasks(job["tasks"], metrics)
    answers.write(json.dumps({"problems": problems, "metrics": metrics}))
    return 0


def _tasks(asked: Mapping[str, JsonObject], metrics: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with each task of lm-eval; those that can be had are added to `metrics`."""
    if asked:  # lm-eval takes seconds to import
        from stages.backends.evaluate.lm_eval_tasks import load_task, require_cluster
    for number, settings in asked.items():
        task = LmEvalTask.model_validate(settings)
        try:
            loaded = load_task(task)
            metrics[task.name] = _metrics(loaded)
            require_cluster(loaded, task)
        except StageError as error:
            yield f"evaluate.tasks.{number}: {error}"
            continue
        if task.metric not in metrics[task.name]:
            names = ", ".join(metrics[task.name])
            yield f"evaluate.tasks.{number}.metric: {task.name} has no {task.metric}, but {names}"


def layers_amiss(source: str, lora: LoraConfig) -> Iterator[str]:
    """Names in the adapter's settings that the base has no module of, and a rank beyond every layer."""
    from stages.backends.train.lora import adapted_layers, check_saved_modules, target_layers

    model = _without_weights(source)
    for name in lora.modules_to_save:
        try:
            check_saved_modules(model, (name,))
        except StageError as error:
            yield str(error)
    endings = (lora.target_modules,) if isinstance(lora.target_modules, str) else lora.target_modules
    there: list[str] = []
    chosen: list[str] = []
    for ending in endings:
        try:
            chosen += target_layers(model, ending if ending == "all-linear" else (ending,))
            there.append(ending)
        except StageError as error:
            yield str(error)
    if chosen:
        named = lora.target_modules if isinstance(lora.target_modules, str) else tuple(there)
        try:
            kept = set(adapted_layers(model, lora.model_copy(update={"target_modules": named})))
            chosen = [name for name in chosen if name in kept]
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


def rows_mixed(source: str) -> Iterator[str]:
    """Whether packed rows read each other, tried on the base's first layers with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from stages.backends.train.packing import require_rows_apart

    config = _configuration(source)
    inner = config.get_text_config()
    kinds = getattr(inner, "layer_types", None)
    layers = 1 + max(kinds.index(kind) for kind in set(kinds)) if kinds else 1
    # what stands between the attentions is the same for each token by itself, and large
    small = {"num_hidden_layers": layers, "vocab_size": 64, "intermediate_size": 64, "pad_token_id": None}
    if kinds:
        small["layer_types"] = list(kinds[:layers])
    for name, value in small.items():
        if getattr(inner, name, None) is not None:
            setattr(inner, name, value)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    try:
        require_rows_apart(model.to("cuda" if torch.cuda.is_available() else "cpu"))
    except StageError as error:
        yield str(error)


def _without_weights(source: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(_configuration(source), trust_remote_code=False)


def _configuration(source: str) -> Any:
    from transformers import AutoConfig

    scheme, _, place = source.partition(":")
    if scheme == "pico":
        from stages.model_shape import PICO

        return AutoConfig.for_model(**{k: v for k, v in PICO.items() if k != "architectures"})
    if scheme == "package":
        from stages.formats.packaged import packaged_gguf

        file = packaged_gguf(place)
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if scheme == "hub":
        name, _, revision = place.partition("@")
        return AutoConfig.from_pretrained(name, revision=revision or None, trust_remote_code=False)
    folder = Path(place).expanduser()
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _metrics(loaded: Any) -> list[str]:
    """The names under which lm-eval logs the scores of an item: a metric, with the filter that it is of."""
    names = [str(entry["metric"]) for entry in loaded.config.metric_list or ()]
    filters = [entry["name"] for entry in loaded.config.filter_list or ()] or ["none"]
    return [name if kind == "none" else f"{name},{kind}" for kind in filters for name in names]


if __name__ == "__main__":
    sys.exit(main())
