"""The model card of an export: Hugging Face front matter for programs, a page for people."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from flows.exchange.dossier import DECISIONS, LINEAGE, MANIFEST, SBOM, SIGNATURE, Dossier, JsonObject
from flows.exchange.known_gaps import imports, licence_of_base, not_measured
from flows.exchange.loading import hub_name, rank_of, snippets
from flows.exchange.scores import ScoreRow, scores
from flows.formatting import plain, short, size, template_environment
from registry.artifacts import Manifest
from stages.quantization import method_that_made

RELATIONS = {"adapter": "adapter", "merged": "merge", "quantized": "quantized"}
"""Kind → `base_model_relation`; the same words as the registry's relations, which are Hugging Face's."""
_FRONT_MATTER = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)


def model_card(dossier: Dossier) -> str:
    """The card as Markdown; the same dossier gives the same text."""
    environment = template_environment(keep_trailing_newline=True)
    environment.filters.update(cell=_cell, code=_code, json=_json, short=short, size=size)
    documents = {"manifest": MANIFEST, "lineage": LINEAGE, "decisions": DECISIONS, "sbom": SBOM}
    body = environment.get_template("model_card.md.j2").render(
        d=dossier,
        title=f"{model_name(dossier)}: {what(dossier.manifest)}",
        summary=_summary(dossier),
        base=dossier.base,
        hub=hub_name(dossier.base.source),
        licence=licence_of_base(dossier),
        quant=dossier.manifest.quant,
        datasets=dossier.related("trained_on"),
        calibration=dossier.related("calibrated_on"),
        training=dossier.made_by("train"),
        rows=scores(dossier),
        snippets=snippets(dossier),
        limits=not_measured(dossier),
        imports=imports(dossier),
        bytes=sum(entry.size for entry in dossier.manifest.files.values()),
        files={**documents, "signature": SIGNATURE},
    )
    return f"---\n{_yaml(front_matter(dossier))}---\n\n{body}"


def front_matter(dossier: Dossier) -> JsonObject:
    """The metadata that the Hugging Face hub reads, checked by its own library; `tuneline` is ours.

    Only what is established is there: `base_model` where the base is on the hub, `datasets` likewise,
    `license` where the registry has a record of it. Raises ValueError for what the hub's library refuses.
    """
    base = hub_name(dossier.base.source)
    metadata = {
        "base_model": base if dossier.manifest.kind != "base" else None,
        "base_model_relation": RELATIONS.get(dossier.manifest.kind),
        "library_name": _library(dossier.manifest),
        "pipeline_tag": "text-generation",
        **_licence(licence_of_base(dossier)),
        "tags": _tags(dossier.manifest),
        "datasets": _hub_datasets(dossier) or None,
        "quantization": _quantization(dossier.manifest),
        "tuneline": claims(dossier),
    }
    kept = {key: value for key, value in metadata.items() if value is not None}
    results = [_eval_result(row, dossier) for row in scores(dossier)]
    if not results:
        return ModelCardData(**kept).to_dict()
    return ModelCardData(model_name=model_name(dossier), eval_results=results, **kept).to_dict()


def claims(dossier: Dossier) -> JsonObject:
    """What the card says of the artifact in a form that can be compared with its manifest."""
    base = dossier.base
    return {
        "artifact": dossier.id,
        "kind": dossier.manifest.kind,
        "base": {
            "source": base.source,
            "revision": base.revision,
            "weights_digest": base.weights_digest,
            "tokenizer_digest": base.tokenizer_digest,
            "chat_template_digest": base.chat_template_digest,
            "architecture": base.architecture,
        },
        "parents": [p.model_dump() for p in dossier.manifest.parents],
        "evaluations": list(dossier.evaluations),
    }


def parsed_front_matter(card: str) -> JsonObject:
    """The metadata of a card's text. Raises ValueError where there is none."""
    block = _FRONT_MATTER.match(card)
    if block is None:
        raise ValueError("it does not begin with YAML between two lines of ---")
    metadata = yaml.load(block[1], Loader=_WithoutAliases)
    if not isinstance(metadata, dict):
        raise ValueError("its front matter is not a mapping")
    return metadata


def model_name(dossier: Dossier) -> str:
    """The base's name without organization, path or suffix: what people call the model."""
    scheme, _, rest = dossier.base.source.partition(":")
    name = Path(rest.partition("@")[0]).stem
    return f"{scheme}-{name}" if not name or name.isdecimal() else name


def what(manifest: Manifest) -> str:
    """The form of a model in a few words: `GGUF Q8_0`, `LoRA adapter`, `merged, float16`."""
    quant, method = manifest.quant, method_that_made(manifest.quant)
    made = method.describe(quant) if method is not None and quant is not None else None
    if manifest.kind == "adapter":
        rank = rank_of(manifest)
        words = f"LoRA adapter, rank {rank}" if rank else "LoRA adapter"
        return f"{words}, {made}" if made else words
    if made:
        return made
    if manifest.kind == "merged":
        dtype = quant.requested.get("dtype") if quant is not None else None
        return f"merged, {dtype}" if dtype else "merged"
    return "base model"


def _summary(dossier: Dossier) -> str:
    base, kind = dossier.base.source, dossier.manifest.kind
    if kind == "base":
        return f"The base model {base}, unchanged, as later stages use it."
    if dossier.manifest.stage == "import":
        return f"{what(dossier.manifest)} for {base}, made elsewhere and brought in."
    if kind == "adapter":
        return f"A LoRA adapter for {base}. It was trained with QLoRA: on the base's weights in 4-bit NF4."
    if kind == "quantized" and dossier.made_by("merge") is None:
        return f"The base model {base}, quantized to {what(dossier.manifest)}."
    folded = {"16bit": "the base's own 16-bit weights", "nf4": "the base's weights after an NF4 round trip"}
    into = folded.get((dossier.manifest.quant.merge_base if dossier.manifest.quant else None) or "")
    merged = f"{base} with a LoRA adapter merged into " + (into or "it")
    if kind == "merged":
        return f"{merged}."
    return f"{merged}, quantized to {what(dossier.manifest)}."


def _library(manifest: Manifest) -> str:
    if (method := method_that_made(manifest.quant)) is not None:
        return method.hub_library
    return "peft" if manifest.kind == "adapter" else "transformers"


def _tags(manifest: Manifest) -> list[str]:
    quant = manifest.quant
    lora = ("lora", "qlora") if quant is not None and quant.is_nf4 else ("lora",)
    tags = {"adapter": lora, "merged": ("merged",), "quantized": (quant.method if quant else "none",)}
    bits = quant.requested.get("bits") if quant else None
    return ["tuneline", *tags.get(manifest.kind, ()), *((f"{bits}-bit",) if bits else ())]


def _quantization(manifest: Manifest) -> JsonObject | None:
    quant = manifest.quant
    if quant is None or not quant.quantized:
        return None
    settings = {"method": quant.method, **{k: v for k, v in quant.requested.items() if k != "method"}}
    if "bits_per_weight" in quant.effective:
        settings["bits_per_weight"] = quant.effective["bits_per_weight"]
    return settings


def _licence(text: str | None) -> dict[str, str]:
    """As the hub wants it: an identifier, or `other` with a name."""
    if text is None:
        return {}
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    return {"license": name} if name == text.lower() else {"license": "other", "license_name": name}


def _hub_datasets(dossier: Dossier) -> list[str]:
    sources = (str(m.config.get("source", "")) for m in dossier.related("trained_on").values())
    return sorted({name for source in sources if (name := hub_name(source))})


def _eval_result(row: ScoreRow, dossier: Dossier) -> EvalResult:
    dataset = dossier.manifests[row.dataset] if row.dataset else None
    source = str(dataset.config.get("source", "")) if dataset else ""
    return EvalResult(
        task_type="text-generation",
        task_name=row.task,
        dataset_type=hub_name(source) or (f"tuneline-{short(row.dataset)}" if row.dataset else row.task),
        dataset_name=f"{source.partition('@')[0]} (held-out rows)" if dataset else row.task,
        dataset_split=row.split,
        dataset_revision=source.rpartition("@")[2] if hub_name(source) else row.dataset,
        metric_type=row.metric,
        metric_name=f"{row.metric} ({row.computed_with})" if row.computed_with else row.metric,
        metric_value=row.value,
        metric_args={
            "n": row.n,
            "confidence_interval_95": [row.low, row.high],
            "interval": row.interval,
            "evaluation": row.evaluation,
        },
    )


class _WithoutAliases(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        # A few lines of aliases to aliases stand for gigabytes, and the card may come from anybody.
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("its front matter has YAML aliases")
        return super().compose_node(parent, index)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.dump(dict(value), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)


def _cell(value: object) -> str:
    """Text for a table or a sentence: nothing in it is Markdown, HTML or a new line."""
    text = " ".join(plain(str(value)).split())
    text = html.escape(text, quote=False)
    return "".join(f"\\{c}" if c in "|\\`*[]" else c for c in text)


def _code(value: object) -> str:
    """Text in code font, which nothing in it can end."""
    return "`" + " ".join(plain(str(value)).split()).replace("`", "'").replace("|", "\\|") + "`"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
