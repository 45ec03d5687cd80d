"""What an import could establish about somebody else's files, what is only claimed, and what nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from registry import Artifact
from registry.artifacts import Kind, QuantSpec, Relation
from registry.compat.contract import examine
from registry.compat.model import pair
from registry.compat.shapes import KEY, is_end, is_head, model_outline
from registry.errors import Incompatible
from stages.contract import Facts


class Form(NamedTuple):
    """What files of one form become, how that relates to its parent, what this may be, and their name."""

    kind: Kind
    relation: Relation
    parents: tuple[Kind, ...]
    name: str


FORMS = {
    "adapter": Form("adapter", "adapter", ("base",), "a PEFT adapter"),
    "model": Form("merged", "finetune", ("base",), "a model directory"),
    "gptq": Form("quantized", "quantized", ("base", "merged"), "a GPTQ checkpoint"),
    "gguf": Form("quantized", "quantized", ("base", "merged"), "a GGUF file"),
}
"""As `stages.untrusted.inspect` tells the forms of files."""

_DECISIVE = frozenset({"kinds", "targets", "saved modules", "vocabulary", "tensors"})
"""Checks of the contract that an import must pass; the others are about using the artifact."""
_REWRITTEN = 0.001
"""Share of tokens that llama.cpp's converter may write differently without it being another vocabulary."""


@dataclass
class Findings:
    """Sentences for the manifest and for the user."""

    established: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    not_established: list[str] = field(default_factory=list)


def describe(
    header: Mapping[str, Any], base: Artifact, tokens: Mapping[str, int] | None, findings: Findings
) -> Facts:
    """What is published. Raises Incompatible where the files cannot belong to the base.

    `found` comes from a thorough `stages.untrusted.inspect.inspect`, `tokens` from `compare_vocabulary`.
    """
    quant = _quant(header, findings)
    effective = quant.effective
    metrics = {"bytes": header.get("bytes", effective.get("bytes")), KEY: header["outline"]}
    metrics["parameters"] = header.get("parameters", effective.get("parameters"))
    if header["form"] != "adapter":
        metrics["bits_per_weight"] = effective["bits_per_weight"]
    subject = Facts(kind=FORMS[header["form"]].kind, base=base.manifest.base, quant=quant, metrics=metrics)
    _contract(subject, base, findings)
    _vocabulary(header, base, tokens, findings)
    _template(header, base, findings)
    if header["form"] == "gguf":
        _gguf_shape(header, base, findings)
    _integrity(header, findings)
    _origin(header, findings)
    return subject


def _quant(header: Mapping[str, Any], findings: Findings) -> QuantSpec:
    recorded = _recorded_quant(header)
    template = {k: v for k, v in (header.get("tokenizer") or {}).items() if k == "chat_template"}
    if header["form"] == "adapter":
        if recorded is not None and recorded.is_nf4:
            findings.claimed.append(f"quant recipe in training: as {header['record']['file']} says")
            return recorded.model_copy(update={"effective": recorded.effective | template})
        findings.not_established.append(
            "quant recipe in training: PEFT does not record it; measure the adapter where it will be used"
        )
        return QuantSpec(method="none", effective={"dtypes": header["dtypes"]} | template)
    if header["form"] == "gguf":
        if not header["names_its_type"]:
            findings.not_established.append(
                "file type: the file names none that is known; its tensors' types do"
            )
        return QuantSpec(
            method="gguf", effective=header["effective"], merge_base=_merge_base(recorded, findings)
        )
    bits = 8 * header["bytes"] / header["parameters"]
    effective = {"bytes": header["bytes"], "parameters": header["parameters"], "bits_per_weight": bits}
    effective |= {"types": header["dtypes"], **template}
    if header["form"] == "model":
        effective["dtype"] = ", ".join(header["dtypes"])
        return QuantSpec(method="none", effective=effective, merge_base=_merge_base(recorded, findings))
    settings = header["quantization"]
    findings.established.append(
        f"GPTQ settings: {settings['bits']} bits in groups of {settings['group_size']}, "
        f"from {settings['stands_in']}"
    )
    findings.not_established.append("calibration data: no GPTQ checkpoint names them")
    effective |= {"format": "gptq", **{key: value for key, value in settings.items() if key != "stands_in"}}
    return QuantSpec(method="gptq", effective=effective, merge_base=_merge_base(recorded, findings))


def _recorded_quant(header: Mapping[str, Any]) -> QuantSpec | None:
    try:
        quant = (header.get("record") or {}).get("quant")
        return QuantSpec.model_validate(quant) if quant else None
    except ValidationError:
        return None


def _merge_base(recorded: QuantSpec | None, findings: Findings) -> Any:
    if recorded is not None and recorded.merge_base is not None:
        findings.claimed.append(f"merge base: {recorded.merge_base}, as its own record says")
        return recorded.merge_base
    findings.not_established.append("merge base: which weights an adapter was folded into, if one was")
    return None


def _contract(subject: Facts, base: Artifact, findings: Findings) -> None:
    answers = [check for check in examine(pair(base.manifest, subject)) if check.name in _DECISIVE]
    refused = [check.line() for check in answers if check.state == "refused"]
    if refused:
        raise Incompatible(f"these files do not belong to the base {base.id[:12]}: {'; '.join(refused)}")
    findings.established += [
        f"{check.name}: {check.found}" for check in answers if check.state == "ok" and check.name != "kinds"
    ]
    findings.not_established += [check.line() for check in answers if check.state == "unknown"]


def _vocabulary(
    header: Mapping[str, Any], base: Artifact, tokens: Mapping[str, int] | None, findings: Findings
) -> None:
    reference = base.manifest.base
    tokenizer = header.get("tokenizer")
    if header["form"] != "gguf" and tokenizer is None:
        if header["form"] != "adapter":
            findings.not_established.append("tokenizer: none beside the weights; the base's has to be used")
        return
    if tokenizer and reference and tokenizer["digest"] == reference.tokenizer_digest:
        findings.established.append("tokenizer: byte for byte the base's")
        return
    if tokens is None:
        findings.not_established.append("tokenizer: in a form whose ids cannot be compared with the base's")
        return
    total = tokens["same"] + tokens["other"] + tokens["missing"]
    allowed = _REWRITTEN * total if header["form"] == "gguf" else 0
    if tokens["missing"] or tokens["other"] > allowed:
        raise Incompatible(
            f"its vocabulary is not the base's: of the base's {total} token ids, {tokens['other']} stand for "
            f"other tokens and {tokens['missing']} for none; give the base it was made for"
        )
    findings.established.append(
        f"vocabulary: {tokens['same']} of the base's {total} ids are the same tokens, {tokens['added']} added"
    )
    findings.not_established.append(
        "tokenizer: not byte for byte the base's, so that texts may be cut differently"
    )


def _template(header: Mapping[str, Any], base: Artifact, findings: Findings) -> None:
    template = (header.get("tokenizer") or {}).get("chat_template")
    if header["form"] == "gguf":
        template = header["effective"]["chat_template"]
    reference = base.manifest.base
    if template is None or reference is None:
        return
    if template["sha256"] == reference.chat_template_digest:
        findings.established.append("chat template: the base's")
    else:
        which = "another than the base's" if template["present"] else "none, unlike the base"
        findings.not_established.append(
            f"chat template: {which}; the contract refuses to serve it beside this base"
        )


def _gguf_shape(header: Mapping[str, Any], base: Artifact, findings: Findings) -> None:
    outline = model_outline(base.manifest.metrics)
    if outline is None or not outline.tensors or header["embedding"] is None:
        findings.not_established.append("shape: the base's manifest does not say what it would have to be")
        return
    embedding = next(
        (ones[0].shape for n, ones in outline.tensors.items() if is_end(n) and not is_head(n)),
        None,
    )
    layers = max(
        (sum(stored.count for stored in ones) for n, ones in outline.tensors.items() if "*" in n), default=0
    )
    expected, seen = [*(embedding or ()), layers], [*reversed(header["embedding"]), header["blocks"]]
    if expected != seen:
        raise Incompatible(
            f"the file has {seen[0]} embedding rows of {seen[1]} and {seen[2]} blocks, the base "
            f"{expected[0]} rows of {expected[1]} and {expected[2]} layers; give the base it was made for"
        )
    findings.established.append(
        f"shape: {seen[0]} embedding rows of {seen[1]}, {seen[2]} blocks, as the base"
    )


def _integrity(header: Mapping[str, Any], findings: Findings) -> None:
    unseen = header.get("not_scanned") or []
    findings.established.append(
        "numbers: all finite" if not unseen else "numbers: finite where the format is known here"
    )
    if unseen:
        findings.not_established.append(f"numbers: tensors of types {', '.join(unseen)} were not looked into")


def _origin(header: Mapping[str, Any], findings: Findings) -> None:
    config = header.get("config") or {}
    if header["form"] == "adapter" and not config.get("revision"):
        named = str(config.get("base_model_name_or_path"))[:80]
        findings.not_established.append(f"revision: adapter_config.json names {named!r} without one")
    findings.not_established.append("training: data, settings and toolchain")
