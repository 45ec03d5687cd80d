"""What the base's configuration says, and what only the libraries know: asked of a child that loads them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.recipe import Recipe
from flows.run.child import child_environment
from stages.config.evaluate import LmEvalTask
from stages.errors import StageError
from stages.families import support
from stages.families.blocks import BLOCKS
from stages.model_shape import LARGEST_CONFIG, ModelShape
from stages.quantization import METHODS, method_of
from stages.untrusted.json import MEGABYTE, read_object

LARGEST = 50 * MEGABYTE
"""Of a tokenizer_config.json: some list every added token."""
SECONDS = 600.0
"""A child takes about 10 s of computing for the libraries, and 10 for each task of lm-eval's own."""


_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags of transformers' own around what the assistant says."""


@dataclass(frozen=True)
class LibraryAnswer:
    """What the libraries said; `metrics` of lm-eval's tasks by name."""

    problems: tuple[str, ...] = ()
    metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def problems(recipe: Recipe, shape: ModelShape) -> Iterator[str]:
    """What of the recipe does not fit the base's family, sizes and files."""
    if reason := support.base_refusal(shape.family, shape.architecture):
        yield f"base.source: {reason}; choose another base"
        return
    yield from _formats(recipe, shape)
    if recipe.base.chat_template is not None:
        yield from _template(Path(recipe.base.chat_template))
    if recipe.base.source.startswith("path:"):
        folder = Path(recipe.base.source.removeprefix("path:")).expanduser()
        try:
            yield from _directory(folder, own_template=recipe.base.chat_template is not None)
        except StageError as error:
            yield f"base.source: {folder}: {error}"
    for number, config in enumerate(recipe.quantize):
        for key, problem in method_of(config).problems(config, shape):
            yield f"quantize.{number}.{key}: {problem}"


def ask(recipe: Recipe, family: str) -> LibraryAnswer:
    """What the libraries say of module names, packing, lm-eval tasks, and a base whose family was not tried.

    Nothing is asked where there is none of these.
    """
    lora = recipe.train.lora
    chosen = lora.target_modules != "all-linear" or lora.layers is not None or lora.pattern is not None
    named = chosen or lora.modules_to_save or lora.rank > 256
    named = named or (family != "" and family not in BLOCKS)
    tasks = {
        number: task.model_dump(mode="json")
        for number, task in enumerate(recipe.evaluate.tasks)
        if isinstance(task, LmEvalTask)
    }
    if not (named or tasks or recipe.train.packing):
        return LibraryAnswer()
    job = {
        "source": recipe.base.source,
        "lora": lora.model_dump(mode="json") if named else None,
        "packing": recipe.train.packing,
        "tasks": tasks,
    }
    return _child(job)


def _child(job: Mapping[str, Any]) -> LibraryAnswer:
    try:
        command, env = [sys.executable, "-m", "stages.backends.preview"], child_environment()
        done = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, timeout=SECONDS, env=env
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return LibraryAnswer((f"the libraries did not answer within {SECONDS:.0f} s; run the check again",))
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return LibraryAnswer((f"base.source: no model can be built from its configuration ({last})",))
    return LibraryAnswer(
        tuple(answer["problems"]), {name: tuple(names) for name, names in answer["metrics"].items()}
    )


def _template(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"base.chat_template: {file} cannot be read as UTF-8 text: {error}"
        return
    from jinja2 import Environment, TemplateError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", text))
    except (TemplateError, RecursionError) as error:
        yield f"base.chat_template: {file} is not a Jinja template: {error}"


def _directory(folder: Path, own_template: bool) -> Iterator[str]:
    """Files that a base has to have; `describe_base` found its config.json and its weights."""
    config = read_object(folder / "config.json", LARGEST_CONFIG)
    if "auto_map" in config:
        yield "base.source: its config.json asks for code of its own (auto_map), which is never run here"
    if "quantization_config" in config:
        settings = config["quantization_config"]
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        yield (
            f"base.source: its weights are already quantized ({method or 'unknown method'}); use what "
            "it was made from"
        )
    if not (folder / "tokenizer_config.json").is_file():
        yield f"base.source: {folder} has no tokenizer_config.json; expected the model's tokenizer beside it"
    elif not own_template and not _has_template(folder):
        yield (
            "base.source: its tokenizer has no chat template; write one in Jinja to a file and set "
            "base.chat_template to its path"
        )


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    settings = read_object(folder / "tokenizer_config.json", LARGEST)
    return bool(settings.get("chat_template"))


def _formats(recipe: Recipe, shape: ModelShape) -> Iterator[str]:
    """Formats that the base's family cannot be had in, each with one that it can, if there is any."""
    refusals = {method.tag: method.refusal(shape.family, shape.architecture) for method in METHODS}
    instead = next((tag for tag, reason in refusals.items() if reason is None), None)
    for number, config in enumerate(recipe.quantize):
        reason = refusals[config.method]
        if reason and instead:
            yield f"quantize.{number}: {reason}; use method: {instead}, or take the section out"
        elif reason:
            yield f"quantize.{number}: {reason}; take the section out: what is merged can be served by vLLM"
    beside = None if recipe.adapter is None or recipe.adapter.on_16bit else recipe.adapter.resident
    if beside is not None and (reason := refusals[beside.method]):
        yield f"adapter.base: {reason}; set it to 16bit, which vLLM serves"
