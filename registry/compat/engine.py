"""The contract's checks on what an engine can serve."""

from __future__ import annotations

from collections.abc import Iterator

from registry.compat.model import Check, Checker, CheckSpec, Described, Pair
from registry.compat.shapes import AdapterOutline, adapter_outline, is_end, model_outline

_LORA_WORDS = {
    "dora": "DoRA",
    "rslora": "rank-stabilized scaling (rsLoRA)",
    "bias": "trained biases",
    "saved": "modules stored whole (modules_to_save)",
    "embedding": "changes to the embedding or the output head",
    "alpha_pattern": "an alpha that differs between modules",
    "rank_pattern": "a rank that differs between modules",
}

_RESOLVE_AGAIN = (
    "if that is what it was trained with, resolve the base with it (base.chat_template) and import this for "
    "that base"
)

_MAKE_AGAIN = "make the model again, or import it"


def _format(subject: Pair) -> Iterator[Check]:
    """The engine reads files of this kind and quantization."""
    engine, model = subject.use.engine, _served(subject)
    if engine is None or model is None:
        return
    method = model.quant.method if model.quant else "none"
    description = f"{model.kind} model, quantization {method}"
    if model.kind not in engine.kinds or method not in engine.methods:
        spec = CheckSpec("format", f"{engine.name} reads {' and '.join(sorted(engine.methods))}")
        todo = "set deploy.engine (llama.cpp for GGUF, vllm for others), or deploy another artifact"
        yield spec.refused(description, todo)
    else:
        yield CheckSpec("format", engine.name).ok(f"{engine.name} {engine.version} reads a {description}")


def _adapter_format(subject: Pair) -> Iterator[Check]:
    """llama.cpp loads GGUF adapters, vLLM those that PEFT wrote."""
    engine = subject.use.engine
    for artifact in reversed(subject.latest_first):
        if engine is None or artifact.kind != "adapter":
            continue
        gguf, wanted = artifact.quant is not None and artifact.quant.is_gguf, engine.gguf_adapters
        description, expected = (f"a {'GGUF' if form else 'PEFT'} adapter" for form in (gguf, wanted))
        spec = CheckSpec("adapter format", expected)
        if gguf == wanted:
            yield spec.ok(f"{engine.name} loads {description}")
        else:
            make = "make one of it: `tuneline quantize --model ADAPTER --base BASE --set method=gguf`"
            yield spec.refused(
                description, make if wanted else "serve the PEFT adapter that it was made from"
            )


def _gptq(subject: Pair) -> Iterator[Check]:
    """The engine has kernels for these bits and group sizes."""
    engine, model = subject.use.engine, _served(subject)
    if engine is None or model is None or model.quant is None or not model.quant.is_packed:
        return
    if not engine.gptq_bits:
        return
    bits, group = (model.quant.effective.get(name) for name in ("bits", "group_size"))
    kernels = f"{_list(engine.gptq_bits)} bits in groups of {_list(engine.gptq_groups)}"
    spec, description = CheckSpec("gptq", kernels), f"{bits} bits in groups of {group}"
    if bits is None or group is None:
        yield spec.unknown("import the model again", "no record of bits or group size")
    elif bits not in engine.gptq_bits or group not in engine.gptq_groups:
        yield spec.refused(description, f"{engine.name} has no kernel for it: quantize with 4 bits")
    else:
        yield spec.ok(description)


def _dtype(subject: Pair) -> Iterator[Check]:
    """The weights have a dtype that the engine computes in."""
    engine, model = subject.use.engine, _served(subject)
    if engine is None or model is None or not engine.dtypes:
        return
    outline = model_outline(model.metrics)
    if outline is not None and not outline.tensors:  # a GGUF file has types of its own
        return
    spec = CheckSpec("dtype", _list(engine.dtypes))
    if outline is None:
        yield spec.unknown(_MAKE_AGAIN, "no record of the weights' dtypes")
        return
    packed = model.quant is not None and model.quant.is_packed
    dtypes = {group.dtype for groups in outline.tensors.values() for group in groups}
    odd = sorted(dtypes - engine.dtypes - ({"I32"} if packed else set()))
    if odd:
        yield spec.refused(_list(odd), f"save the weights in a dtype {engine.name} knows")
    else:
        yield spec.ok(_list(dtypes))


def _context(subject: Pair) -> Iterator[Check]:
    """No more tokens are asked for than the model has positions."""
    asked, model = subject.use.context_length, _served(subject)
    if asked is None or model is None:
        return
    outline = model_outline(model.metrics)
    limit = outline.context_length if outline else None
    if limit is None and model.quant is not None:
        effective = model.quant.effective.get("context_length")
        limit = effective if isinstance(effective, int) else None
    spec = CheckSpec("context length", f"at most {limit} tokens")
    if limit is None:
        spec = CheckSpec("context length", f"at least {asked} positions")
        yield spec.unknown(_MAKE_AGAIN, "no record of the model's positions")
    elif asked > limit:
        yield spec.refused(f"{asked} asked for", f"set context_length to {limit} or less")
    else:
        yield spec.ok(f"{asked} of {limit} tokens")


def _architecture(subject: Pair) -> Iterator[Check]:
    """The engine, or the converter to its format, knows the architecture."""
    use, base = subject.use, subject.base.base
    if base is None or not use.naming:
        return
    name = use.engine.name if use.engine else "llama.cpp's converter"
    spec = CheckSpec("engine architecture", f"an architecture that {name} knows")
    if use.architectures is None:
        todo = "what it supports is not known here; the engine reports it when it loads the model"
        yield spec.unknown(todo, base.architecture)
    elif base.architecture not in use.architectures:
        yield spec.refused(base.architecture, "use the other engine, or another base")
    else:
        yield spec.ok(base.architecture)


def _rank(subject: Pair) -> Iterator[Check]:
    """The engine was started for adapters of this rank."""
    engine, adapter = subject.use.engine, _adapter(subject)
    if engine is None or adapter is None:
        return
    outline = adapter_outline(adapter.metrics)
    spec = CheckSpec("rank", f"at most {engine.max_rank}")
    if outline is None:
        yield _no_adapter("rank")
    elif outline.rank > engine.max_rank:
        todo = f"start {engine.name} with a larger maximum rank, or merge the adapter"
        yield spec.refused(str(outline.rank), todo)
    else:
        yield spec.ok(str(outline.rank))


def _lora(subject: Pair) -> Iterator[Check]:
    """The adapter uses no variant of LoRA that the engine does not know."""
    engine, adapter = subject.use.engine, _adapter(subject)
    if engine is None or adapter is None:
        return
    outline = adapter_outline(adapter.metrics)
    if outline is None:
        yield _no_adapter("adapter features")
        return
    features = _features(outline)
    refused, unsure = features & engine.refused_lora, features & engine.unsure_lora
    description = " and ".join(_LORA_WORDS[feature] for feature in sorted(refused or unsure))
    if refused:
        spec = CheckSpec("adapter features", f"a LoRA that {engine.name} applies exactly")
        yield spec.refused(description, "merge the adapter instead: the merge accounts for all of these")
    elif unsure:
        todo = f"{engine.name} does this for some architectures only: merge it, or probe it after loading"
        yield CheckSpec("adapter features", "plain LoRA on linear layers").unknown(todo, description)
    else:
        yield CheckSpec("adapter features", "plain LoRA").ok("plain LoRA on linear layers")


def _template(subject: Pair) -> Iterator[Check]:
    """A file that brings its own chat template brings the one that the model was trained with."""
    for model in subject.latest_first:
        if model.quant is None or model.base is None or model.kind == "adapter":
            continue
        template = model.quant.effective.get("chat_template")
        if template is None and not model.quant.is_gguf:
            continue  # made here, with the base's own tokenizer files
        digest = model.base.chat_template_digest
        spec = CheckSpec("template in the file", digest[:12] + "…")
        if not isinstance(template, dict) or "present" not in template:
            yield spec.unknown("import the file again", "no record of the file's template")
        elif template.get("sha256") != digest:
            shown = str(template.get("sha256"))[:12] + "…" if template["present"] else "none"
            todo = f"chats would be rendered differently than with its base: {_RESOLVE_AGAIN}, or convert it "
            yield spec.refused(shown, f"{todo}again with the base's")
        else:
            yield spec.ok()
        return


def _reading(subject: Pair) -> Iterator[Check]:
    """An adapter beside its base is read by the base's tokenizer and chat template."""
    engine, adapter = subject.use.engine, _adapter(subject, with_base=True)
    if engine is None or adapter is None or adapter.base is None:
        return
    outline = adapter_outline(adapter.metrics)
    ids = outline.tokenizer_length if outline else None
    template = adapter.quant.effective.get("chat_template") if adapter.quant else None
    spec = CheckSpec("adapter reading", "the base's tokenizer and chat template")
    if ids is not None and ids > adapter.base.tokenizer_length:
        description = f"a tokenizer with {ids - adapter.base.tokenizer_length} tokens of its own"
        todo = f"{engine.name} would read these as other tokens: merge the adapter, and serve that"
        yield spec.refused(description, todo)
    elif isinstance(template, dict) and template.get("sha256") != adapter.base.chat_template_digest:
        description = f"a tokenizer with {'another' if template.get('present') else 'no'} chat template"
        yield spec.refused(description, f"{engine.name} would render chats by the base's: {_RESOLVE_AGAIN}")
    else:
        yield spec.ok()


CHECKS: dict[str, Checker] = {
    "template in the file": _template,
    "adapter reading": _reading,
    "format": _format,
    "adapter format": _adapter_format,
    "gptq": _gptq,
    "dtype": _dtype,
    "context length": _context,
    "engine architecture": _architecture,
    "rank": _rank,
    "adapter features": _lora,
}


def _served(subject: Pair) -> Described | None:
    """The model that the engine loads: the later of the two that is one, not the adapter on it."""
    models = (
        artifact for artifact in subject.latest_first if artifact.kind in ("base", "merged", "quantized")
    )
    return next(models, None)


def _adapter(subject: Pair, with_base: bool = False) -> Described | None:
    """The later of the two that is an adapter, or one that names its base."""
    adapters = (
        artifact
        for artifact in subject.latest_first
        if artifact.kind == "adapter" and (artifact.base or not with_base)
    )
    return next(adapters, None)


def _features(adapter: AdapterOutline) -> set[str]:
    ends = any(target.embedding for group in adapter.targets.values() for target in group)
    ends |= any(is_end(name) for name in (*adapter.targets, *adapter.saved))
    has = {
        "dora": adapter.dora,
        "rslora": adapter.rslora,
        "bias": adapter.bias,
        "saved": bool(adapter.saved),
        "embedding": ends,
        "alpha_pattern": adapter.alpha_pattern,
        "rank_pattern": adapter.rank_pattern,
    }
    return {feature for feature, present in has.items() if present}


def _no_adapter(name: str) -> Check:
    spec = CheckSpec(name, "the adapter's shape in its manifest")
    return spec.unknown("it was made by an older version: train it again, or import it")


def _list(values: frozenset[int] | frozenset[str] | set[str] | list[str]) -> str:
    return ", ".join(str(value) for value in sorted(values))
