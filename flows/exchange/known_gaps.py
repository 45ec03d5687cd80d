"""What the figures of a dossier do not say."""

from __future__ import annotations

from flows.exchange.dossier import Dossier
from flows.exchange.loading import hub_name
from flows.exchange.scores import scores
from flows.formatting import short


def licence_of_base(dossier: Dossier) -> str | None:
    """The base's licence, where whoever brought the base into the registry recorded one."""
    for manifest in dossier.family().values():
        if manifest.kind == "base":
            for key in ("license", "licence"):
                if isinstance(licence := manifest.metrics.get(key) or manifest.config.get(key), str):
                    return licence
    return None


def imports(dossier: Dossier) -> dict[str, dict[str, list[str]]]:
    """id → what is established, claimed and not established, of what in the family was made elsewhere."""
    return {
        id_: {key: list(imported.get(key, ())) for key in ("established", "claimed", "not_established")}
        for id_, manifest in dossier.family().items()
        if isinstance(imported := manifest.metrics.get("import"), dict)
    }


def not_measured(dossier: Dossier) -> list[str]:
    """Sentences about what was not measured or is not known, each true of this very artifact."""
    rows = scores(dossier)
    sentences = []
    if not rows:
        sentences.append("Nothing was measured: the registry holds no evaluation of this artifact.")
    else:
        engines = sorted({row.computed_with for row in rows if row.computed_with})
        if engines:
            sentences.append(
                f"Any engine or number type but the one measured ({'; '.join(engines)}). "
                "Another may answer differently."
            )
        widest = max(rows, key=lambda row: row.width)
        if widest.width > 0:
            sentences.append(
                f"Small differences: the interval of {widest.task} {widest.metric} is "
                f"{widest.width:.3g} wide on {widest.n} items."
            )
        tasks = ", ".join(sorted({row.task for row in rows}))
        sentences.append(f"Anything but {tasks}: general abilities, other languages, other kinds of prompts.")
    for imported in imports(dossier).values():
        sentences += [f"Claimed by whoever made it, not verified: {line}." for line in imported["claimed"]]
        sentences += [f"Not established: {line}." for line in imported["not_established"]]
    sentences.append("Safety, bias, and resistance to hostile prompts.")
    sentences.append("Speed and memory in serving.")
    sentences.append("Whether the base model saw the test items, or text like them, in its own training.")
    if not dossier.decisions:
        sentences.append("No gate has judged this artifact.")
    if licence_of_base(dossier) is None:
        sentences.append("The licence of the base model: the registry has no record of it.")
    if hub_name(dossier.base.source) is None:
        sentences.append(
            f"Whether the base can be had elsewhere: {dossier.base.source} is not a repository of the "
            f"Hugging Face hub; its weights have the digest {short(dossier.base.weights_digest)}…"
        )
    return sentences
