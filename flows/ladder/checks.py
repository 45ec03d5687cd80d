"""What each rung of the ladder has to stand: one function per check, and the limits with where they are from.

A check returns None, or what it found, and as a cause only what was looked at. All are run; the first that
speaks names the cause, so the certain ones (a refusal, other tokens, other weights) come before those that
count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flows.ladder.distance import distance
from flows.ladder.finding import Said
from flows.ladder.model import Rung, RungEvidence
from stages.statistics.intervals import tango

Check = Callable[[Rung, RungEvidence, Mapping[Any, RungEvidence]], Said | None]

FOLD_LIMIT = 0.005
"""The same sum, unmerged in float32 against merged and rounded to 16 bits."""
LOST_ANSWERS = 0.05
"""Share of answers lost against the parent, net, from which a significant loss (one-sided 1 %) is a break."""
SAME_ANSWERS = 0.75
"""Share of the endpoint's answers that must be the file's own, to the letter; batches of another shape may
tip a near tie."""


def stopped(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """The stage refused its input, or ended with an error such as NaN logits."""
    return Said(evidence.stopped, evidence.stopped) if evidence.stopped else None


def compared(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """It was held against the form before it; where it was not, no other check can find anything."""
    if evidence.stopped or rung.kind in ("base", "endpoint"):
        return None
    done = {
        "token by token": "kl_mean" in rung.figures,
        "in how it reads chats": bool(_parity(evidence)),
        "tensor by tensor": rung.kind != "merged" or bool(evidence.metrics.get("weights")),
    }
    lacking = [how for how, there in done.items() if not there]
    if not lacking:
        return None
    words = f"not compared with {rung.parent or 'the form before it'} {' and '.join(lacking)}"
    return Said(words, f"nothing shows that it is what it was made from: {words}")


def vocabulary(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """Every id stands for the base's text."""
    wrong = _parity(evidence).get("vocabulary", 0)
    if not wrong:
        return None
    return Said(
        f"{wrong} token ids stand for other texts than in the base",
        f"its tokenizer is not the base's: {wrong} ids stand for other texts than there",
    )


def special_tokens(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """BOS, EOS, the ids that end an answer, and whether BOS is added are the base's."""
    special = _parity(evidence).get("special") or {}
    if not special:
        return None
    words = "; ".join(
        f"{name} is {value}, expected {expected}" for name, (value, expected) in special.items()
    )
    if {"eos", "stop"} & special.keys():
        cause = "the token that ends an answer is not the base's"
        return Said(
            words, f"{cause} ({words})", "answers may not stop: restore the base's tokenizer settings"
        )
    if "adds_bos" not in special:
        return Said(words, f"BOS is another token than the base's ({words})")
    does = (
        "adds a BOS that the base does not"
        if special["adds_bos"][0]
        else "leaves out a BOS that the base adds"
    )
    return Said(words, f"whoever reads text with it {does} ({words})")


def double_bos(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """No chat begins with BOS twice where the base's begins with one."""
    if not _parity(evidence).get("double_bos"):
        return None
    return Said("rendered chats begin with BOS twice", "BOS stands twice at the start of a chat (double BOS)")


def template(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """Chats become the base's token ids."""
    parity = _parity(evidence)
    differing = parity.get("chats", 0) - parity.get("equal", 0)
    if not differing:
        return None
    where = f"{differing} of {parity['chats']} chats become other token ids ({parity['first_difference']})"
    why = "the tokenizer cuts text differently" if parity["template"] else "it carries another chat template"
    return Said(where, f"{why} than the model was trained with: {where}")


def weights(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """A merge holds the base's tensors, and the adapter's update once in each module."""
    tensors = evidence.metrics.get("weights") or {}
    wrong, foreign = tensors.get("wrong", []), tensors.get("foreign", [])
    lacking = [*tensors.get("missing", []), *tensors.get("added", []), *tensors.get("nonfinite", [])]
    if tensors.get("tied"):
        return Said(
            "the settings tie a head that has weights of its own",
            "the output head was re-tied to the embedding",
        )
    if not (wrong or foreign or lacking):
        return None
    shares = [entry["share"] for entry in wrong]
    first = [*(entry["module"] for entry in wrong), *foreign, *lacking][0]
    count = len(wrong) + len(foreign) + len(lacking)
    words = f"{count} tensors are not what base and adapter make, the first is {first}"
    cause = _damage(tensors) or _merge_cause(shares, tensors["modules"], foreign)
    return Said(words, f"{cause}: {words}", "merge again from that base and adapter")


def _damage(tensors: Mapping[str, Any]) -> str | None:
    kinds = {"missing": "missing", "added": "in neither", "nonfinite": "not finite"}
    counted = [f"{len(tensors[name])} {words}" for name, words in kinds.items() if tensors.get(name)]
    return f"of its tensors {', '.join(counted)}" if counted else None


def _merge_cause(shares: list[float], modules: int, foreign: list[str]) -> str:
    if foreign and shares:
        return (
            "tensors that the adapter does not touch are not the base's, and what it changes is not their sum"
        )
    if foreign:
        return "tensors that the adapter does not touch are not the base's"
    if (
        len(shares) == modules
        and max(shares) - min(shares) < 0.1 * max(map(abs, shares))
        and min(shares) > 0.2
    ):
        return f"the adapter was scaled by {sum(shares) / len(shares):.2g} on its way"
    if all(abs(share) < 0.1 for share in shares) and len(shares) < modules:
        return f"{len(shares)} of {modules} modules were not merged"
    arrived = f"{min(shares):.2g} to {max(shares):.2g}"
    return f"of the adapter's update {arrived} arrived, by module, where 1 is all of it"


def fold(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """Merged and unmerged give the same predictions."""
    kl = rung.fold.get("kl_mean")
    if rung.kind != "merged" or kl is None or kl.low <= FOLD_LIMIT:
        return None
    words = f"KL {kl.value:.3g} to base + adapter unmerged, at most {FOLD_LIMIT} is rounding"
    return Said(
        words,
        f"merged and unmerged predict otherwise: {words}",
        "evaluate again with compute_dtype: float32; if it is as far then, merge again",
    )


def provenance(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """Calibrated on the data that the adapter was trained on."""
    if (
        evidence.calibrated_on is None
        or evidence.trained_on is None
        or evidence.calibrated_on == evidence.trained_on
    ):
        return None
    words = f"calibrated on dataset {evidence.calibrated_on[:12]}, trained on {evidence.trained_on[:12]}"
    return Said(words, f"calibration on other text than the training data: {words}")


def effect(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """The adapter changes the base, and makes the right answers likelier; preferences only make them likelier
    than others, and may lower both."""
    ratio, kl = rung.figures.get("answer_perplexity_ratio"), rung.figures.get("kl_mean")
    if rung.kind not in ("started", "tuned") or kl is None:
        return None
    if kl.high < 1e-4:
        words = f"KL {kl.value:.2g} to the base"
        return Said(
            words,
            f"the adapter changes nothing: {words}",
            "see the training's losses, steps and learning rate",
        )
    if ratio is not None and ratio.low > 1 and not evidence.by_preference:
        words = f"held-out answers are {ratio.value:.3g} times less likely per token than from the base"
        return Said(
            words,
            f"training made the model worse: {words}",
            "look at the labels, the template and train.learning_rate",
        )
    return None


def survival(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """Held-out answers are still likelier than from the quantized base, where the tune made them so."""
    ratio, tuned = rung.to_base.get("answer_perplexity_ratio"), seen.get("tuned")
    before = tuned.metrics.get("fidelity", {}).get("fidelity", {}) if tuned else {}
    gain = before.get("metrics", {}).get("answer_perplexity_ratio")
    if ratio is None or gain is None or gain["high"] >= 1 or ratio.low <= 1:
        return None
    words = f"held-out answers are {ratio.value:.3g} times less likely per token than from the quantized base"
    how = "in this form" if rung.kind == "apart" else "quantization"
    return Said(words, f"the tune did not survive {how}: {words}")


def answers(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """It is not right significantly less often than the parent: in what it answers, or finds likelier."""
    if rung.kind in ("base", "endpoint") or not rung.compared or rung.gained is None or rung.lost is None:
        return None
    net = (rung.lost - rung.gained) / rung.compared
    if net < LOST_ANSWERS or tango(rung.gained, rung.lost, rung.compared, alpha=0.01).high >= 0:
        return None
    words = f"{rung.lost} answers lost and {rung.gained} gained of {rung.compared} against {rung.parent}"
    if rung.kind in ("started", "tuned"):
        return Said(words, f"training cost the task more than it gave: {words}")
    follows = "see the items in its samples, the tokens that end a turn, template and engine"
    return Said(words, f"it is right less often than {rung.parent}: {words}", follows)


def endpoint(rung: Rung, evidence: RungEvidence, seen: Mapping[Any, RungEvidence]) -> Said | None:
    """Over HTTP the file is asked the same tokens and gives the same answers as when it was measured."""
    probe = evidence.probe
    if not probe or not probe["asked"]:
        return None
    if probe["same_prompt"] < probe["asked"]:
        words = f"{probe['asked'] - probe['same_prompt']} of {probe['asked']} prompts have another length"
        return Said(words, f"the engine renders chats differently than they were measured: {words}")
    if probe["same"] >= SAME_ANSWERS * probe["asked"]:
        return None
    words = f"{probe['asked'] - probe['same']} of {probe['asked']} answers are not those of the file"
    follows = "verify the file (`tuneline artifacts verify`), start the engine again and ask it again"
    return Said(
        words, f"the engine answers otherwise than the file did when it was measured: {words}", follows
    )


def _parity(evidence: RungEvidence) -> Mapping[str, Any]:
    parity: Mapping[str, Any] = evidence.metrics.get("parity") or {}
    return parity


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
