"""`tuneline plan serve`: how many requests and tenants an engine will carry, before there is one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import size
from flows.planning.machine import machine
from flows.planning.serving.memory import weight_bytes
from flows.planning.serving.plan import Asked, Promise, Served, ServingPlan, plan
from flows.planning.serving.simulation import Load, Outcome
from flows.planning.serving.steps import GPUS, GpuSteps, Steps, llama_steps
from flows.settings import Settings
from registry import Registry
from registry.compat.contract import holds_tune
from stages.errors import InvalidInput
from stages.formats.packaged import packaged_gguf
from stages.model_shape import describe_base, describe_gguf

SOURCES = ("path:", "hub:", "package:", "pico:")


@dataclass(frozen=True)
class _Found:
    served: Served
    file: Path | None
    tuned: bool


def plan_serve(arguments: argparse.Namespace) -> Reply:
    """What an engine would need and answer.

    Raises Usage for arguments that do not go together, InvalidInput for a model that the engine cannot serve,
    StageError where llama.cpp's steps cannot be timed, RegistryError.
    """
    settings = Settings()
    found = _find(arguments.model)
    asked = _asked(arguments, found)
    here = machine(settings.root)
    gpu = GPUS[arguments.gpu] if asked.engine == "vllm" else None
    if gpu is None:
        assert found.file is not None
        threads, cache = arguments.threads, settings.cache_folder
        steps: Steps = llama_steps(found.file, asked.load.slots, asked.rank, threads, cache)
    else:
        steps = GpuSteps(found.served.shape, found.served.weights, gpu)
    planned = plan(found.served, asked, steps, here.memory_available, gpu)
    basis = _basis(arguments, steps)
    return Reply(
        _document(asked, planned, basis),
        lambda: _show(found.served.label, asked, planned, basis),
        3 if planned.shortfalls else 0,
    )


def _asked(arguments: argparse.Namespace, found: _Found) -> Asked:
    if arguments.engine == "vllm" and arguments.gpu is None:
        raise Usage(f"--engine vllm is reckoned for a GPU: name it with --gpu, one of {', '.join(GPUS)}")
    if arguments.engine == "llama.cpp" and found.file is None:
        raise InvalidInput(
            f"{arguments.model}: llama.cpp serves a GGUF file; expected one, or an artifact that holds one: "
            "quantize with method: gguf"
        )
    if arguments.engine == "vllm" and found.file is not None:
        raise InvalidInput(
            f"{arguments.model} is a GGUF file; for vllm name a model in 16 bits or GPTQ, such as "
            "hub:OWNER/NAME"
        )
    load = Load(arguments.tenants, arguments.prompt, arguments.answer, arguments.slots)
    least = load.prompt + load.answer
    length = arguments.context_length or least
    if length < least:
        raise Usage(
            f"--context-length {length}: expected at least the {least} tokens of --prompt and --answer"
        )
    return Asked(
        arguments.engine,
        load,
        Promise(arguments.p99, arguments.first_p99),
        length,
        0 if found.tuned else arguments.rank,
        arguments.rate,
        arguments.per_tenant,
    )


def _find(name: str) -> _Found:
    """A GGUF file, a base as recipes name it, or what the registry has under the name."""
    file = Path(name)
    if name.startswith("package:"):
        file = packaged_gguf(name.removeprefix("package:"))
    elif name.startswith(SOURCES):
        shape = describe_base(name)
        return _Found(Served(name, shape, shape.stored_bytes or 2 * shape.parameters), None, False)
    if file.is_file():
        return _Found(Served(name, describe_gguf(file, name), file.stat().st_size), file, False)
    if file.suffix == ".gguf":
        raise InvalidInput(f"{name}: no such file; expected a GGUF file, a channel or an artifact")
    with open_registry() as registry:
        return _in_registry(registry, name)


def _in_registry(registry: Registry, name: str) -> _Found:
    followed = registry.serving_state().channels.get(name)
    held = registry.get(followed.artifact_id if followed else name)
    if held.manifest.kind == "adapter":
        raise InvalidInput(
            f"{name} is an adapter: name the base that it is served beside (its GGUF; for vllm in 16 bits)"
        )
    folder = registry.view(held.id)
    file = folder / "model.gguf" if "model.gguf" in held.manifest.files else None
    shape = describe_gguf(file) if file else describe_base(f"path:{folder}")
    return _Found(Served(name, shape, weight_bytes(held)), file, holds_tune(held.manifest))


def _basis(arguments: argparse.Namespace, steps: Steps) -> str:
    if isinstance(steps, GpuSteps):
        return (
            f"by formula, from the data sheet of {arguments.gpu}: a limit that no engine reaches; not run "
            "on such a GPU"
        )
    disturbed = getattr(steps, "disturbed", False)
    beside = "; other work had the cores meanwhile: beside it the engine is slower" if disturbed else ""
    return f"steps of llama.cpp timed on this machine, {1000 * steps.seconds(1, 1, 0):.3g} ms a token{beside}"


def _document(asked: Asked, planned: ServingPlan, basis: str) -> dict[str, object]:
    load = asked.load
    return {
        "engine": asked.engine,
        "tenants": load.tenants,
        "prompt_tokens": load.prompt,
        "answer_tokens": load.answer,
        "slots": load.slots,
        "memory_bytes": planned.memory_bytes,
        "memory_free": planned.held,
        "memory_note": planned.memory_note,
        "room_for_adapters": planned.room if asked.rank else None,
        "at_most": _figures(planned.most),
        "promised": planned.promised and _figures(planned.promised),
        "most_tenants": planned.tenants,
        "basis": basis,
        "shortfalls": list(planned.shortfalls),
    }


def _figures(outcome: Outcome) -> dict[str, float]:
    return {
        "requests_per_second": outcome.rate,
        **{
            f"{name}_{label}_seconds": outcome.at(seconds, share)
            for name, seconds in (("first_token", outcome.first), ("answer", outcome.whole))
            for label, share in (("p50", 0.5), ("p99", 0.99))
        },
    }


def _show(label: str, asked: Asked, planned: ServingPlan, basis: str) -> None:
    load = asked.load
    rows = [
        ("memory", f"{size(planned.memory_bytes)} of {size(planned.held)}", planned.memory_note),
        ("requests/s at most", *_row(planned.most, load.answer)),
    ]
    within = f"p99 within {asked.promise.whole:g} s"
    if planned.promised is not None:
        rows.append((f"requests/s, {within}", *_row(planned.promised, load.answer)))
    if asked.rank:
        rows.append(("room for adapters", f"{planned.room:,}", f"of rank {asked.rank}, in memory at once"))
    if planned.tenants is not None:
        rows.append(("tenants", f"{planned.tenants:,}", f"each with {asked.each:g} requests/s, {within}"))
    whom = f"{load.tenants} tenant{'s' if load.tenants > 1 else ''}"
    title = f"{label} on {asked.engine}, {whom}, {load.prompt} + {load.answer} tokens, {load.slots} at once"
    print_table(title, ("what", "figure", "note"), rows)
    print(f"Times: {basis}.")
    for line in planned.shortfalls:
        print(f"Not enough: {line}")


def _row(outcome: Outcome, answer: int) -> tuple[str, str]:
    first, whole = outcome.first, outcome.whole
    return f"{outcome.rate:.3g}", (
        f"{outcome.rate * answer:.3g} tokens/s; p50 and p99 of the first token {outcome.at(first, 0.5):.2g} "
        f"and {outcome.at(first, 0.99):.2g} s, of the answer {outcome.at(whole, 0.5):.2g} and "
        f"{outcome.at(whole, 0.99):.2g} s"
    )
