"""Is a form farther from what it was made from than its type explains, and what was seen of its weights?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.evaluation_plan import AGAINST_PARENT, AGAINST_UNMERGED
from flows.ladder.finding import Said
from flows.ladder.model import Rung, RungEvidence
from stages.quantization.distance import LIMITS, UNKNOWN

NOT_THE_SAME = 0.5
"""Likeliest tokens in common, below which most are others; of a share, how far from 1 it may be."""


def distance(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """No farther from the parent than this type of quantization explains, or than rounding to nearest takes
    this very model; an adapter apart, from its sum with the base's own weights, since it was trained on other
    ones."""
    figures = rung.fold if rung.kind == "apart" else rung.figures
    kl = figures.get("kl_mean")
    if kl is None or rung.kind in ("started", "tuned") or (rung.kind == "merged" and rung.fold):
        return None
    limit = LIMITS.get(evidence.quant, UNKNOWN)
    rounded = _looked_into(evidence).get("rounding")
    if rounded:
        limit = max(limit, rounded["kl_mean"]["high"])
    if kl.low <= limit:
        return None
    interval = f"{kl.low:.3g} to {kl.high:.3g}"
    to = "base + adapter in 16 bits" if rung.kind == "apart" else rung.parent
    words = f"KL {kl.value:.3g} to {to} ({interval}), at most {limit:.3g} for {evidence.quant}"
    if rounded:
        words += f", and {rounded['kl_mean']['value']:.3g} for its parent rounded to {rounded['bits']} bits"
    cause, follows = _cause(rung, evidence)
    return Said(words, f"{cause}: {words}", follows)


def _looked_into(evidence: RungEvidence) -> Mapping[str, Any]:
    """Of a file that is far: `rounding` of its parent to as many bits, and its `layers` beside those."""
    task = AGAINST_UNMERGED if evidence.kind == "apart" else AGAINST_PARENT
    looked: Mapping[str, Any] = evidence.metrics.get("fidelity", {}).get(task, {})
    return looked


def _cause(rung: Rung, evidence: RungEvidence) -> tuple[str, str]:
    """What was seen, and what to do next."""
    if rung.kind == "merged":
        return (
            "it predicts otherwise than base and adapter as trained, from which only rounding should part it",
            "merge again, and evaluate both with compute_dtype: float32",
        )
    looked = _looked_into(evidence)
    layers = looked.get("layers")
    whose = "the base" if rung.kind == "apart" else rung.parent or "its parent"
    again = f"quantize again from {whose}"
    if layers and layers["wrong"]:
        return _wrong_layers(layers, whose), again
    base, kl = rung.to_base.get("kl_mean"), rung.figures["kl_mean"]
    if rung.kind != "apart" and base is not None and base.high < kl.low:
        return f"the file is nearer to the quantized base than to {whose}: the tune is not in it", again
    if layers:
        return _right_layers(layers, whose), _how_to_lose_less(rung, evidence)
    if looked.get("rounding"):
        return "rounding does not explain its distance, and its weights were not looked at", again
    if rung.kind != "apart" and rung.figures["same_top"].high < NOT_THE_SAME:
        return "most of its likeliest tokens are not its parent's, and its weights were not looked at", again
    return "its distance is more than its type usually explains, and nothing shows why", again


def _wrong_layers(layers: Mapping[str, Any], whose: str) -> str:
    wrong, compared = layers["wrong"], layers["compared"]
    if len(wrong) == compared and all(abs(layer["share"]) < NOT_THE_SAME for layer in wrong):
        return f"its weights are not those of {whose}: none of {compared} matrices is, down to rounding"
    first = wrong[0]
    if abs(first["share"] - 1) > NOT_THE_SAME:
        what = f"{first['module']} holds {first['share']:.2g} times what it should"
    else:
        off = f"{first['error']:.2g} of its size, rounding by {first['rounding']:.2g}"
        what = f"{first['module']} is off by {off}"
    return f"{len(wrong)} of {compared} matrices are not those of {whose}, rounded: {what}"


def _right_layers(layers: Mapping[str, Any], whose: str) -> str:
    return (
        f"its {layers['compared']} compared matrices are those of {whose} but for rounding (off by "
        f"{layers['error']:.2g} of their size, rounding to nearest by {layers['rounding']:.2g})"
    )


def _how_to_lose_less(rung: Rung, evidence: RungEvidence) -> str:
    if rung.kind == "apart":
        return "convert the adapter again, which was not looked at, or set adapter.base to more bits"
    return evidence.lose_less
