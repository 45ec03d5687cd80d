"""Whether two artifacts may be combined, from their manifests alone."""

from __future__ import annotations

from registry.artifacts import BaseReference, Manifest
from registry.errors import Incompatible

COMPARED = (
    "architecture", "revision", "weights_digest", "tokenizer_digest", "tokenizer_length", "embedding_rows",
    "chat_template_digest",
)  # fmt: skip


def check(base: BaseReference, manifest: Manifest) -> None:
    """Raise Incompatible unless the artifact (an adapter, usually) belongs to exactly this base.

    The source may differ, since one model can come from two places; every other field must be equal.
    """
    if manifest.base is None:
        raise Incompatible(
            f"this {manifest.kind} carries no base reference, expected that of {base.source}; "
            "use an artifact that a stage of Tuneline made or that was imported with its base"
        )
    differing = [
        f"{field}: expected {_short(getattr(base, field))}, found {_short(getattr(manifest.base, field))}"
        for field in COMPARED
        if getattr(base, field) != getattr(manifest.base, field)
    ]
    if differing:
        raise Incompatible(
            f"this {manifest.kind} was made for {manifest.base.source}, not for the base {base.source}; "
            f"{'; '.join(differing)}; use the base it was made for, or make it again for this one"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
