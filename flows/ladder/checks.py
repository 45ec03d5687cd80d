"""What each rung of the ladder has to stand: one function per check, and the limits with where they are from.

A check returns None, or what it found and the likely cause. All are run; the first that speaks names the
cause, so the certain ones (a refusal, other tokens, other weights) come before the statistical ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flows.ladder.rungs import PARENT
from stages.intervals import tango
from stages.rounding import LIMITS

if TYPE_CHECKING:
    from flows.ladder.ladder import Evidence, Rung

Said = tuple[str, str] | None
Check = Callable[["Rung", "Evidence", Mapping[Any, "Evidence"]], Said]

FOLD_LIMIT = 0.005
"""The same sum, unmerged in float32 against merged and rounded to 16 bits."""
LOST_ANSWERS = 0.05
"""Share of answers lost against the parent, net, from which a significant loss (one-sided 1 %) is a break."""
SAME_ANSWERS = 0.75
"""Share of the endpoint's answers that must be the file's own, to the letter; batches of another shape may
tip a near tie."""


def stopped(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """The stage refused its input, or ended with an error such as NaN logits."""
    return (one.stopped, one.stopped) if one.stopped else None


def compared(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """It was held against the form before it; where it was not, no other check can find anything."""
    if one.stopped or rung.kind in ("base", "endpoint"):
        return None
    done = {
        "token by token": "kl_mean" in rung.figures,
        "in how it reads chats": bool(_parity(one)),
        "tensor by tensor": rung.kind != "merged" or bool(one.metrics.get("weights")),
    }
    lacking = [how for how, there in done.items() if not there]
    if not lacking:
        return None
    words = f"not compared with {rung.parent or 'the form before it'} {' and '.join(lacking)}"
    return words, f"nothing shows that it is what it was made from: {words}"


def vocabulary(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """Every id stands for the base's text."""
    wrong = _parity(one).get("vocabulary", 0)
    if not wrong:
        return None
    return f"{wrong} token ids stand for other texts than in the base", (
        f"the tokenizer was changed: {wrong} ids stand for other texts than in training"
    )


def special_tokens(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """BOS, EOS, the ids that end an answer, and whether BOS is added are the base's."""
    special = _parity(one).get("special") or {}
    if not special:
        return None
    words = "; ".join(
        f"{name} is {found}, expected {expected}" for name, (found, expected) in special.items()
    )
    lost = {"eos", "stop"} & special.keys()
    cause = (
        "the token that ends an answer was dropped or changed, so answers do not stop"
        if lost
        else ("the engine would add BOS to a chat that the template has begun already, or leave it out")
    )
    return words, f"{cause} ({words})"


def double_bos(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """No chat begins with BOS twice where the base's begins with one."""
    if not _parity(one).get("double_bos"):
        return None
    return "rendered chats begin with BOS twice", "BOS stands twice before every chat (double BOS)"


def template(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """Chats become the base's token ids."""
    parity = _parity(one)
    differing = parity.get("chats", 0) - parity.get("equal", 0)
    if not differing:
        return None
    where = f"{differing} of {parity['chats']} chats become other token ids ({parity['first_difference']})"
    why = "the tokenizer cuts text differently" if parity["template"] else "it carries another chat template"
    return where, f"{why} than the model was trained with: {where}"


def weights(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """A merge holds the base's tensors, and the adapter's update once in each module."""
    found = one.metrics.get("weights") or {}
    wrong, foreign = found.get("wrong", []), found.get("foreign", [])
    lacking = [*found.get("missing", []), *found.get("added", []), *found.get("nonfinite", [])]
    if found.get("tied"):
        return (
            "the settings tie a head that has weights of its own",
            "the output head was re-tied to the embedding",
        )
    if not (wrong or foreign or lacking):
        return None
    shares = [entry["share"] for entry in wrong]
    first = [*(entry["module"] for entry in wrong), *foreign, *lacking][0]
    count = len(wrong) + len(foreign) + len(lacking)
    words = f"{count} tensors are not what base and adapter make, the first is {first}"
    return words, f"{_merge_cause(shares, found['modules'], foreign, lacking)}: {words}"


def _merge_cause(shares: list[float], modules: int, foreign: list[str], lacking: list[str]) -> str:
    if lacking:
        return "tensors are missing, foreign or not finite"
    if foreign and shares:
        return "it was made from other base weights (another revision)"
    if foreign:
        return "tensors that the adapter does not touch are not the base's (another revision of it?)"
    if (
        len(shares) == modules
        and max(shares) - min(shares) < 0.1 * max(map(abs, shares))
        and min(shares) > 0.2
    ):
        return f"the adapter was scaled by {sum(shares) / len(shares):.2g} on its way"
    if all(abs(share) < 0.1 for share in shares) and len(shares) < modules:
        return f"{len(shares)} of {modules} modules were not merged"
    return "it holds another adapter, or an older merge (a stale directory)"


def fold(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """Merged and unmerged give the same predictions."""
    kl = rung.fold.get("kl_mean")
    if rung.kind != "merged" or kl is None or kl.low <= FOLD_LIMIT:
        return None
    words = f"KL {kl.value:.3g} to base + adapter unmerged, at most {FOLD_LIMIT} is rounding"
    return words, f"the merged model is not the sum of base and adapter: {words}"


def provenance(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """Calibrated on the data that the adapter was trained on."""
    if one.calibrated_on is None or one.trained_on is None or one.calibrated_on == one.trained_on:
        return None
    words = f"calibrated on dataset {one.calibrated_on[:12]}, trained on {one.trained_on[:12]}"
    return words, f"calibration on other text than the training data: {words}"


def distance(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """No farther from the parent than this type of quantization explains, or than rounding to nearest takes
    this very model; an adapter apart, from its sum with the base's own weights, since it was trained on other
    ones."""
    figures = rung.fold if rung.kind == "apart" else rung.figures
    kl = figures.get("kl_mean")
    if kl is None or rung.kind == "tuned" or (rung.kind == "merged" and rung.fold):
        return None
    limit = LIMITS.get(one.quant, LIMITS["Q2_K"])
    rounded = _rounded(one)
    if rounded:
        limit = max(limit, rounded["kl_mean"]["high"])
    if kl.low <= limit:
        return None
    interval = f"{kl.low:.3g} to {kl.high:.3g}"
    to = "base + adapter in 16 bits" if rung.kind == "apart" else rung.parent
    words = f"KL {kl.value:.3g} to {to} ({interval}), at most {limit:.3g} for {one.quant}"
    if rounded:
        words += f", and {rounded['kl_mean']['value']:.3g} for its parent rounded to {rounded['bits']} bits"
    return words, f"{_distance_cause(rung, one)}: {words}"


def _distance_cause(rung: Rung, one: Evidence) -> str:
    if rung.kind == "merged":
        return "the merged model is not the sum of base and adapter"
    if rung.kind == "apart":
        return "the engine does not put the trained adapter on the base as it is (another file, scaled, cut)"
    base, kl = rung.to_base.get("kl_mean"), rung.figures["kl_mean"]
    if base is not None and base.high < kl.low:
        return "the file is nearer to the base than to its parent: the tune is not in it (a stale directory?)"
    if _rounded(one):
        return "rounding does not explain its distance: its weights are not its parent's (a stale directory?)"
    if rung.figures["same_top"].high < 0.5:
        return (
            "most of its likeliest tokens are not its parent's: its weights are others, or "
            "are read wrongly (group size, packing)"
        )
    return "its distance is more than its type usually explains, and nothing shows why"


def _rounded(one: Evidence) -> Mapping[str, Any]:
    """What rounding the parent to nearest at the same bits costs; measured where a file is far from it."""
    found: Mapping[str, Any] = one.metrics.get("fidelity", {}).get(PARENT, {}).get("rounding") or {}
    return found


def effect(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """The adapter changes the base, and makes the right answers likelier."""
    ratio, kl = rung.figures.get("answer_perplexity_ratio"), rung.figures.get("kl_mean")
    if rung.kind != "tuned" or kl is None:
        return None
    if kl.high < 1e-4:
        return (
            f"KL {kl.value:.2g} to the base",
            "the adapter changes nothing: it was not trained, or not loaded",
        )
    if ratio is not None and ratio.low > 1:
        words = f"held-out answers are {ratio.value:.3g} times less likely per token than from the base"
        return words, f"training made the model worse (learning rate, wrong labels or template): {words}"
    return None


def survival(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """Held-out answers are still likelier than from the quantized base, where the tune made them so."""
    ratio, tuned = rung.to_base.get("answer_perplexity_ratio"), seen.get("tuned")
    before = tuned.metrics.get("fidelity", {}).get("fidelity", {}) if tuned else {}
    gain = before.get("metrics", {}).get("answer_perplexity_ratio")
    if ratio is None or gain is None or gain["high"] >= 1 or ratio.low <= 1:
        return None
    words = f"held-out answers are {ratio.value:.3g} times less likely per token than from the quantized base"
    return words, f"the tune did not survive quantization: {words}"


def answers(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """The engine's own answers are not significantly worse than the parent's."""
    if rung.kind in ("base", "endpoint") or not rung.compared or rung.gained is None or rung.lost is None:
        return None
    net = (rung.lost - rung.gained) / rung.compared
    if net < LOST_ANSWERS or tango(rung.gained, rung.lost, rung.compared, alpha=0.01).high >= 0:
        return None
    words = f"{rung.lost} answers lost and {rung.gained} gained of {rung.compared} against {rung.parent}"
    cause = "training cost the task more than it gave"
    if rung.kind != "tuned":
        cause = "it generates worse than it predicts: see the tokens that end a turn, template and engine"
    return words, f"{cause}: {words}"


def endpoint(rung: Rung, one: Evidence, seen: Mapping[Any, Evidence]) -> Said:
    """Over HTTP the file is asked the same tokens and gives the same answers as when it was measured."""
    probe = one.probe
    if not probe or not probe["asked"]:
        return None
    if probe["same_prompt"] < probe["asked"]:
        words = f"{probe['asked'] - probe['same_prompt']} of {probe['asked']} prompts have another length"
        return words, f"the engine renders chats differently than in training: {words}"
    if probe["same"] >= SAME_ANSWERS * probe["asked"]:
        return None
    words = f"{probe['asked'] - probe['same']} of {probe['asked']} answers are not those of the file"
    return words, f"the engine does not serve the file that was measured, or decodes otherwise: {words}"


def _parity(one: Evidence) -> Mapping[str, Any]:
    found: Mapping[str, Any] = one.metrics.get("parity") or {}
    return found


CHECKS: dict[str, Check] = {
    "stopped": stopped,
    "compared": compared,
    "vocabulary": vocabulary,
    "special tokens": special_tokens,
    "double BOS": double_bos,
    "template": template,
    "weights": weights,
    "fold": fold,
    "provenance": provenance,
    "distance": distance,
    "effect": effect,
    "survival": survival,
    "answers": answers,
    "endpoint": endpoint,
}
"""Name → check, in the order in which they name a cause."""
