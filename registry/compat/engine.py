"""The contract's checks on what an engine can serve."""

from __future__ import annotations

from collections.abc import Iterator

from registry.compat.model import Check, Checker, Described, EngineLimits, Pair
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


def _format(subject: Pair) -> Iterator[Check]:
    """The engine reads files of this kind and quantization."""
    engine, model = subject.use.engine, _served(subject)
    if engine is None or model is None:
        return
    method = model.quant.method if model.quant else "none"
    found = f"{model.kind} model, quantization {method}"
    if model.kind not in engine.kinds or method not in engine.methods:
        yield Check(
            "format", "refused", f"{engine.name} reads {' and '.join(sorted(engine.methods))}", found,
            "set deploy.engine (llama.cpp for GGUF, vllm for others), or deploy another artifact",
        )  # fmt: skip
    else:
        yield Check("format", "ok", engine.name, f"{engine.name} {engine.version} reads a {found}")


def _adapter_format(subject: Pair) -> Iterator[Check]:
    """llama.cpp loads GGUF adapters, vLLM those that PEFT wrote."""
    engine = subject.use.engine
    for one in (subject.host, subject.guest):
        if engine is None or one is None or one.kind != "adapter":
            continue
        gguf, wanted = one.quant is not None and one.quant.is_gguf, engine.gguf_adapters
        found, expected = (f"a {'GGUF' if form else 'PEFT'} adapter" for form in (gguf, wanted))
        if gguf == wanted:
            yield Check("adapter format", "ok", expected, f"{engine.name} loads {found}")
        else:
            make = "make one of it: `tuneline quantize --model ADAPTER --base BASE --set method=gguf`"
            todo = make if wanted else "serve the PEFT adapter that it was made from"
            yield Check("adapter format", "refused", expected, found, todo)


def _gptq(subject: Pair) -> Iterator[Check]:
    """The engine has kernels for these bits and group sizes."""
    engine, model = subject.use.engine, _served(subject)
    if engine is None or model is None or model.quant is None or not model.quant.is_packed:
        return
    if not engine.gptq_bits:
        return
    effective = model.quant.effective
    bits, group = effective.get("bits"), effective.get("group_size")
    expected = f"{_list(engine.gptq_bits)} bits in groups of {_list(engine.gptq_groups)}"
    found = f"{bits} bits in groups of {group}"
    if bits is None or group is None:
        yield Check("gptq", "unknown", expected, "no record of bits or group size", "import the model again")
    elif bits not in engine.gptq_bits or group not in engine.gptq_groups:
        yield Check(
            "gptq", "refused", expected, found, f"{engine.name} has no kernel for it: quantize with 4 bits"
        )
    else:
        yield Check("gptq", "ok", expected, found)


def _dtype(subject: Pair) -> Iterator[Check]:
    """The weights have a dtype that the engine computes in."""
    engine, model = subject.use.engine, _served(subject)
    if engine is None or model is None or not engine.dtypes:
        return
    outline = model_outline(model.metrics)
    if outline is not None and not outline.tensors:  # a GGUF file has types of its own
        return
    if outline is None:
        yield Check(
            "dtype", "unknown", _list(engine.dtypes), "no record of the weights' dtypes",
            "make the model again, or import it",
        )  # fmt: skip
        return
    packed = model.quant is not None and model.quant.is_packed
    dtypes = {group.dtype for groups in outline.tensors.values() for group in groups}
    odd = sorted(dtypes - engine.dtypes - ({"I32"} if packed else set()))
    if odd:
        yield Check(
            "dtype",
            "refused",
            _list(engine.dtypes),
            _list(odd),
            f"save the weights in a dtype {engine.name} knows",
        )
    else:
        yield Check("dtype", "ok", _list(engine.dtypes), _list(dtypes))


def _context(subject: Pair) -> Iterator[Check]:
    """No more tokens are asked for than the model has positions."""
    asked, model = subject.use.context_length, _served(subject)
    if asked is None or model is None:
        return
    outline = model_outline(model.metrics)
    limit = outline.context_length if outline else None
    if limit is None and model.quant is not None:
        found = model.quant.effective.get("context_length")
        limit = found if isinstance(found, int) else None
    if limit is None:
        yield Check(
            "context length", "unknown", f"at least {asked} positions", "no record of the model's positions",
            "make the model again, or import it",
        )  # fmt: skip
    elif asked > limit:
        yield Check(
            "context length", "refused", f"at most {limit} tokens", f"{asked} asked for",
            f"set context_length to {limit} or less",
        )  # fmt: skip
    else:
        yield Check("context length", "ok", f"at most {limit} tokens", f"{asked} of {limit} tokens")


def _architecture(subject: Pair) -> Iterator[Check]:
    """The engine, or the converter to its format, knows the architecture."""
    use, base = subject.use, subject.host.base
    if base is None or not use.naming:
        return
    name = use.engine.name if use.engine else "llama.cpp's converter"
    expected = f"an architecture that {name} knows"
    if use.architectures is None:
        yield Check(
            "engine architecture", "unknown", expected, base.architecture,
            "the list of what it knows is not installed here; it will say so itself when it loads",
        )  # fmt: skip
    elif base.architecture not in use.architectures:
        yield Check(
            "engine architecture", "refused", expected, base.architecture,
            "use the other engine, or another base",
        )  # fmt: skip
    else:
        yield Check("engine architecture", "ok", expected, base.architecture)


def _rank(subject: Pair) -> Iterator[Check]:
    """The engine was started for adapters of this rank."""
    found = _adapter(subject)
    if found is None:
        return
    engine, adapter = found
    if adapter is None:
        yield _no_adapter("rank")
    elif adapter.rank > engine.max_rank:
        yield Check(
            "rank", "refused", f"at most {engine.max_rank}", str(adapter.rank),
            f"start {engine.name} with a larger maximum rank, or merge the adapter",
        )  # fmt: skip
    else:
        yield Check("rank", "ok", f"at most {engine.max_rank}", str(adapter.rank))


def _lora(subject: Pair) -> Iterator[Check]:
    """The adapter uses no variant of LoRA that the engine does not know."""
    found = _adapter(subject)
    if found is None:
        return
    engine, adapter = found
    if adapter is None:
        yield _no_adapter("adapter features")
        return
    has = _features(adapter)
    refused, unsure = has & engine.refused_lora, has & engine.unsure_lora
    if refused:
        words = " and ".join(_LORA_WORDS[one] for one in sorted(refused))
        yield Check(
            "adapter features", "refused", f"a LoRA that {engine.name} applies exactly", words,
            "merge the adapter instead: the merge accounts for all of these",
        )  # fmt: skip
    elif unsure:
        words = " and ".join(_LORA_WORDS[one] for one in sorted(unsure))
        yield Check(
            "adapter features", "unknown", "plain LoRA on linear layers", words,
            f"{engine.name} does this for some architectures only: merge it, or probe it after loading",
        )  # fmt: skip
    else:
        yield Check("adapter features", "ok", "plain LoRA", "plain LoRA on linear layers")


def _template(subject: Pair) -> Iterator[Check]:
    """A file that brings its own chat template brings the one that the model was trained with."""
    for one in (subject.guest, subject.host):
        if one is None or one.quant is None or one.base is None or one.kind == "adapter":
            continue
        found = one.quant.effective.get("chat_template")
        if found is None and not one.quant.is_gguf:
            continue  # made here, with the base's own tokenizer files
        expected = one.base.chat_template_digest
        if not isinstance(found, dict) or "present" not in found:
            yield Check(
                "template in the file", "unknown", expected[:12] + "…", "no record of the file's template",
                "import the file again",
            )  # fmt: skip
        elif found.get("sha256") != expected:
            seen = str(found.get("sha256"))[:12] + "…" if found["present"] else "none"
            yield Check(
                "template in the file", "refused", expected[:12] + "…", seen,
                f"chats would be rendered differently than with its base: {_RESOLVE_AGAIN}, or convert it "
                "again with the base's",
            )  # fmt: skip
        else:
            yield Check("template in the file", "ok", expected[:12] + "…", expected[:12] + "…")
        return


def _reading(subject: Pair) -> Iterator[Check]:
    """An adapter beside its base is read by the base's tokenizer and chat template."""
    engine = subject.use.engine
    for one in (subject.guest, subject.host):
        if engine is None or one is None or one.kind != "adapter" or one.base is None:
            continue
        outline = adapter_outline(one.metrics)
        ids = outline.tokenizer_length if outline else None
        template = one.quant.effective.get("chat_template") if one.quant else None
        expected = "the base's tokenizer and chat template"
        if ids is not None and ids > one.base.tokenizer_length:
            found = f"a tokenizer with {ids - one.base.tokenizer_length} tokens of its own"
            todo = f"{engine.name} would read these as other tokens: merge the adapter, and serve that"
            yield Check("adapter reading", "refused", expected, found, todo)
        elif isinstance(template, dict) and template.get("sha256") != one.base.chat_template_digest:
            found = f"a tokenizer with {'another' if template.get('present') else 'no'} chat template"
            todo = f"{engine.name} would render chats by the base's: {_RESOLVE_AGAIN}"
            yield Check("adapter reading", "refused", expected, found, todo)
        else:
            yield Check("adapter reading", "ok", expected, expected)
        return


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
    for one in (subject.guest, subject.host):
        if one is not None and one.kind in ("base", "merged", "quantized"):
            return one
    return None


def _adapter(subject: Pair) -> tuple[EngineLimits, AdapterOutline | None] | None:
    engine = subject.use.engine
    for one in (subject.guest, subject.host):
        if engine is not None and one is not None and one.kind == "adapter":
            return engine, adapter_outline(one.metrics)
    return None


def _features(adapter: AdapterOutline) -> set[str]:
    ends = any(target.embedding for ones in adapter.targets.values() for target in ones)
    ends |= any(is_end(name) for name in (*adapter.targets, *adapter.saved))
    return {
        word
        for word, present in {
            "dora": adapter.dora,
            "rslora": adapter.rslora,
            "bias": adapter.bias,
            "saved": bool(adapter.saved),
            "embedding": ends,
            "alpha_pattern": adapter.alpha_pattern,
            "rank_pattern": adapter.rank_pattern,
        }.items()
        if present
    }


def _no_adapter(name: str) -> Check:
    return Check(
        name, "unknown", "the adapter's shape in its manifest", "no record of it",
        "it was made by an older version: train it again, or import it",
    )  # fmt: skip


def _list(values: frozenset[int] | frozenset[str] | set[str] | list[str]) -> str:
    return ", ".join(str(value) for value in sorted(values))
