"""The ladder's checks: each finds what it is there for, none speaks on a healthy lineage, none is idle."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flows.evaluation_plan import AGAINST_BASE, AGAINST_PARENT, AGAINST_START, AGAINST_UNMERGED
from flows.ladder import checks as ladder_checks
from flows.ladder.ladder import logged_answers, read_ladder
from flows.ladder.model import Ladder, RungEvidence
from flows.ladder.rows import HEAD, moved_from_start, terminal_rows
from flows.report.ladder_chart import ladder_chart
from flows.report.svg import WIDTH
from registry.artifacts import QuantSpec
from stages.quantization.gptq import Gptq

PARITY = {"chats": 20, "equal": 20, "first_difference": None, "double_bos": False, "template": True,
          "vocabulary": 0, "special": {}}  # fmt: skip
WEIGHTS = {
    "modules": 14,
    "wrong": [],
    "foreign": [],
    "missing": [],
    "added": [],
    "nonfinite": [],
    "tied": False,
}
BAD_PARITY = {"equal": 0, "first_difference": "from token 3 on [1], expected [2]"}


def figure(value: float, spread: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread), "n": 64}


def fidelity(kl: float, answer_ratio: float = 1.0, same_top: float = 0.9) -> dict[str, Any]:
    spread = 0.001
    return {
        "metrics": {
            "kl_mean": figure(kl), "kl_p99": figure(5 * kl), "same_top": figure(same_top, spread),
            "flips": figure(0.01), "perplexity_ratio": figure(answer_ratio, spread),
            "answer_kl_mean": figure(kl), "answer_perplexity_ratio": figure(answer_ratio, spread),
        }
    }  # fmt: skip


def rounded(kl: float, cost: float, layers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Of a file that is far from its parent: what rounding costs that, and the weights, were looked at."""
    rounding = {"bits": 4, "group_size": 128, "ends": False, "kl_mean": figure(cost)}
    return fidelity(kl) | {"rounding": rounding, "layers": layers}


RIGHT = {"compared": 14, "error": 0.12, "rounding": 0.1, "wrong": []}


def wrong_layers(share: float, of: int) -> dict[str, Any]:
    """One matrix of `of` holds `share` of its parent's and something else."""
    one = {"module": "0.up_proj", "share": share, "error": 0.3 if share == 1 else 1.0, "rounding": 0.1}
    return {**RIGHT, "compared": of, "wrong": [one]}


def answers(right: int, of: int = 100) -> dict[str, tuple[str, float]]:
    return {f"item {k}": ("yes", 1.0) if k < right else ("no", 0.0) for k in range(of)}


def rung(label: str, kind: Any, right: int, **compared: dict[str, Any]) -> RungEvidence:
    tasks = {"routing": {"exact_match": figure(right / 100, 0.05)}}
    named = {
        {"parent": AGAINST_PARENT, "to_base": AGAINST_BASE, "fold": AGAINST_UNMERGED}[name]: found
        for name, found in compared.items()
    }
    metrics: dict[str, Any] = {"tasks": tasks, "fidelity": named, "parity": PARITY}
    if kind == "merged":
        metrics["weights"] = WEIGHTS
    quant = {"gptq-4bit": "gptq-4", "gguf-q8_0": "Q8_0", "adapter apart": "Q8_0"}.get(label, "none")
    trained = "d" * 64
    calibrated = trained if quant == "gptq-4" else None
    return RungEvidence(label, kind, label, metrics, answers(right), quant, calibrated, trained)


def lineage() -> dict[str, RungEvidence]:
    """Six healthy rungs and an endpoint; figures like those of the 135M model."""
    gguf = rung("gguf-q8_0", "quantized", 67, parent=fidelity(0.005), to_base=fidelity(4.5, 0.01))
    apart = {"parent": fidelity(0.3), "fold": fidelity(0.01), "to_base": fidelity(4.5, 0.01)}
    return {
        "base": rung("base NF4", "base", 0),
        "tuned": rung("tuned NF4 + adapter", "tuned", 67, parent=fidelity(4.5, 0.01)),
        "merged": rung("merged", "merged", 67, parent=fidelity(0.3), fold=fidelity(1e-6)),
        "gptq": rung("gptq-4bit", "quantized", 66, parent=fidelity(0.13), to_base=fidelity(4.6, 0.01)),
        "gguf": gguf,
        "apart": rung("adapter apart", "apart", 67, **apart),
        "endpoint": RungEvidence(
            "endpoint", "endpoint", "gguf-q8_0", probe={"asked": 4, "same": 4, "same_prompt": 4}
        ),
    }  # fmt: skip


def wrong(shares: list[float]) -> Callable[[RungEvidence], RungEvidence]:
    found = [{"module": str(k), "share": share} for k, share in enumerate(shares)]
    return lambda e: changed(e, "weights", wrong=found)


def far(**compared: dict[str, Any]) -> Callable[[RungEvidence], RungEvidence]:
    names = {"parent": AGAINST_PARENT, "to_base": AGAINST_BASE, "fold": AGAINST_UNMERGED}
    return lambda e: changed(e, "fidelity", **{names[name]: found for name, found in compared.items()})


def looked_into(layers: dict[str, Any]) -> Callable[[RungEvidence], RungEvidence]:
    """Farther than rounding explains, with what was seen of its matrices."""
    return far(parent=rounded(2.0, 0.5, layers))


def parity(**values: Any) -> Callable[[RungEvidence], RungEvidence]:
    return lambda e: changed(e, "parity", **values)


def tensors(**values: Any) -> Callable[[RungEvidence], RungEvidence]:
    return lambda e: changed(e, "weights", **values)


def changed(one: RungEvidence, section: str, **values: Any) -> RungEvidence:
    return replace(one, metrics={**one.metrics, section: {**one.metrics.get(section, {}), **values}})


@dataclass(frozen=True)
class Fault:
    check: str
    rung: str
    change: Callable[[RungEvidence], RungEvidence]
    cause: str


FAULTS = (
    Fault("stopped", "merged", lambda e: replace(e, metrics={}, stopped="NaN logits"), "NaN logits"),
    Fault("compared", "tuned", lambda e: replace(e, metrics={}), "with base NF4 token by token"),
    Fault("compared", "gguf", lambda e: replace(e, metrics={**e.metrics, "parity": {}}), "it reads chats"),
    Fault("compared", "merged", lambda e: replace(e, metrics={**e.metrics, "weights": None}), "by tensor"),
    Fault("vocabulary", "gguf", parity(vocabulary=2), "2 ids"),
    Fault("special tokens", "gguf", parity(special={"eos": [0, 2]}), "ends an answer"),
    Fault("special tokens", "gguf", parity(special={"adds_bos": [True, False]}), "adds a BOS"),
    Fault("special tokens", "gguf", parity(special={"adds_bos": [False, True]}), "leaves out"),
    Fault("special tokens", "gguf", parity(special={"bos": [3, 1]}), "BOS is another token"),
    Fault("double BOS", "merged", parity(double_bos=True), "BOS stands twice"),
    Fault("template", "merged", parity(template=False, **BAD_PARITY), "chat template"),
    Fault("template", "gptq", parity(**BAD_PARITY), "cuts text differently"),
    Fault("weights", "merged", tensors(tied=True), "re-tied"),
    Fault("weights", "merged", wrong([0.0]), "1 of 14 modules were not merged"),
    Fault("weights", "merged", wrong([2.0] * 14), "scaled by 2"),
    Fault("weights", "merged", wrong([k / 9 - 0.7 for k in range(14)]), "-0.7 to 0.74 arrived"),
    Fault("weights", "merged", tensors(foreign=["embed"]), "does not touch are not the"),
    Fault("weights", "merged", lambda e: tensors(foreign=["embed"])(wrong([0.4])(e)), "is not their sum"),
    Fault("weights", "merged", tensors(nonfinite=["q"]), "1 not finite"),
    Fault("weights", "merged", tensors(missing=["lm_head"]), "1 missing"),
    Fault("fold", "merged", far(fold=fidelity(0.05)), "merged and unmerged predict"),
    Fault("provenance", "gptq", lambda e: replace(e, calibrated_on="e" * 64), "other text"),
    Fault("distance", "gguf", far(parent=fidelity(0.2)), "nothing shows why"),
    Fault("distance", "gguf", far(parent=rounded(2.0, 0.5)), "its weights were not looked at"),
    Fault("distance", "gptq", looked_into(wrong_layers(0.0, of=1)), "are not those of merged: none"),
    Fault("distance", "gptq", looked_into(wrong_layers(2.0, of=14)), "0.up_proj holds 2 times"),
    Fault("distance", "gptq", looked_into(wrong_layers(1.0, of=14)), "0.up_proj is off by 0.3"),
    Fault("distance", "gptq", looked_into(RIGHT), "are those of merged but for rounding"),
    Fault("distance", "gptq", far(parent=fidelity(2.0, same_top=0.1)), "likeliest tokens are not its"),
    Fault("distance", "gguf", far(parent=fidelity(4.0), to_base=fidelity(0.1, 0.01)), "tune is not in it"),
    Fault("distance", "apart", far(fold=fidelity(0.2)), "nothing shows why"),
    Fault("distance", "apart", far(fold=rounded(0.2, 0.1, wrong_layers(0.0, of=1))), "not those of the base"),
    Fault("vocabulary", "apart", parity(vocabulary=2), "2 ids"),
    Fault("survival", "apart", far(to_base=fidelity(4, 1.5)), "did not survive"),
    Fault("effect", "tuned", far(parent=fidelity(1e-7)), "changes nothing"),
    Fault("effect", "tuned", far(parent=fidelity(4, 1.9)), "made the model worse"),
    Fault("survival", "gptq", far(to_base=fidelity(4, 1.5)), "did not survive"),
    Fault("answers", "gptq", lambda e: replace(e, answers=answers(40)), "right less often"),
    Fault("answers", "merged", lambda e: replace(e, answers=answers(40)), "right less often"),
    Fault(
        "endpoint", "endpoint",
        lambda e: replace(e, probe={"asked": 4, "same": 4, "same_prompt": 3}), "renders chats differently",
    ),
    Fault(
        "endpoint", "endpoint",
        lambda e: replace(e, probe={"asked": 4, "same": 2, "same_prompt": 4}), "2 of 4 answers",
    ),
)  # fmt: skip
IDS = [f"{fault.check} at {fault.rung}: {fault.cause}" for fault in FAULTS]


def judge(fault: Fault | None) -> Ladder:
    evidence = lineage()
    if fault is not None:
        evidence[fault.rung] = fault.change(evidence[fault.rung])
    return read_ladder(list(evidence.values()))


def found(fault: Fault) -> bool:
    """Whether the ladder names the rung, by the right check, with the right cause."""
    ladder = judge(fault)
    broken = next((rung for rung in ladder.rungs if rung.findings), None)
    right = broken is not None and broken.label == lineage()[fault.rung].label
    return right and broken.findings[0].check == fault.check and fault.cause in str(ladder.cause)


def test_a_healthy_lineage_raises_no_alarm() -> None:
    ladder = judge(None)
    assert ladder.breaks_at is None
    assert [rung.findings for rung in ladder.rungs] == [()] * 7
    assert ladder.sentence == "Each of the 5 compared forms is what it was made from."
    assert [rung.parent for rung in ladder.rungs] == [
        None, "base NF4", "tuned NF4 + adapter", "merged", "merged", "tuned NF4 + adapter", "gguf-q8_0",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=IDS)
def test_each_fault_is_named_with_its_rung_and_cause(fault: Fault) -> None:
    ladder = judge(fault)
    assert found(fault), (ladder.breaks_at, ladder.cause)


@pytest.mark.parametrize("check", ladder_checks.CHECKS)
def test_no_check_is_idle(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, each check leaves a fault above unfound."""
    monkeypatch.setitem(ladder_checks.CHECKS, check, lambda *_: None)
    missed = [fault.check for fault in FAULTS if not found(fault)]
    assert set(missed) == {check}


def test_a_sound_file_of_a_model_that_rounding_takes_far_is_no_break() -> None:
    """A 4-bit file of 270M parameters with 262,144 words: KL 0.51, no answer flipped, the same score."""
    evidence = lineage()
    evidence["gptq"] = far(parent=rounded(0.51, 0.9))(evidence["gptq"])
    assert read_ladder(list(evidence.values())).breaks_at is None
    evidence["apart"] = far(fold=rounded(0.2, 0.3))(evidence["apart"])
    assert read_ladder(list(evidence.values())).breaks_at is None, "nor an adapter over such a base"


def test_what_to_do_next_is_no_cause() -> None:
    """Of a sound file that lost too much: what was seen of it, and apart from that how to lose less."""
    evidence = lineage()
    file = QuantSpec(method="gptq", effective={"fallbacks": ["0.a", "0.b", "1.a"]})
    advice = Gptq().lose_less(file)
    evidence["gptq"] = replace(far(parent=rounded(2.0, 0.5, RIGHT))(evidence["gptq"]), lose_less=advice)
    ladder = read_ladder(list(evidence.values()))
    assert ladder.next == (
        "calibrate on more rows, take smaller groups or more bits; 3 of its modules could only be rounded"
    )
    assert ladder.sentence == f"Quality breaks at gptq-4bit: {ladder.cause}. Next: {ladder.next}"
    assert "calibrat" not in str(ladder.cause)
    for fault in FAULTS:
        cause = str(judge(fault).cause)
        assert "?" not in cause, cause
        assert "stale" not in cause, cause


def test_the_first_broken_rung_is_named_not_the_later_ones() -> None:
    evidence = lineage()
    for name in ("merged", "gguf"):
        evidence[name] = changed(evidence[name], "parity", vocabulary=1)
    assert read_ladder(list(evidence.values())).breaks_at == "merged"


def test_a_large_but_uncertain_distance_is_no_break() -> None:
    wide = {
        "metrics": {**fidelity(0.03)["metrics"], "kl_mean": {"value": 0.03, "low": 0.01, "high": 0.2, "n": 8}}
    }
    fold = {"value": 0.004, "low": 0.002, "high": 0.009, "n": 8}
    wide_fold = {"metrics": {**fidelity(0.004)["metrics"], "kl_mean": fold}}
    evidence = lineage()
    evidence["gguf"] = changed(evidence["gguf"], "fidelity", **{AGAINST_PARENT: wide})
    evidence["merged"] = changed(evidence["merged"], "fidelity", **{AGAINST_UNMERGED: wide_fold})
    assert read_ladder(list(evidence.values())).breaks_at is None


def test_a_few_lost_answers_may_be_chance() -> None:
    evidence = lineage()
    for name in ("base", "tuned", "merged", "gptq", "gguf"):
        evidence[name] = replace(evidence[name], answers=answers(9 if name == "gguf" else 10, of=12))
    assert read_ladder(list(evidence.values())).breaks_at is None, "one of twelve is more than 5 %"


def test_a_16_bit_fold_may_be_far_from_the_nf4_model_that_was_trained() -> None:
    evidence = lineage()
    evidence["merged"] = changed(evidence["merged"], "fidelity", **{AGAINST_PARENT: fidelity(0.8)})
    assert read_ladder(list(evidence.values())).breaks_at is None
    metrics = {**evidence["merged"].metrics["fidelity"]}
    metrics.pop(AGAINST_UNMERGED)
    evidence["merged"] = replace(
        evidence["merged"], metrics={**evidence["merged"].metrics, "fidelity": metrics}
    )
    assert read_ladder(list(evidence.values())).breaks_at == "merged", "an NF4 fold may not"


def test_the_chart_says_in_words_what_it_shows() -> None:
    ladder = judge(FAULTS[-1])
    picture = ladder_chart(ladder)
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img"
    description = next(e.text or "" for e in root.iter() if e.tag.endswith("desc"))
    assert "gguf-q8_0, KL 0.005 (0.0045 to 0.0055) to merged" in description
    assert [e.text for e in root.iter() if e.get("class") == "broken"] == ["✕ breaks here"]
    assert "nan" not in picture.lower()
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 5 + 6, "a KL of five rungs and a score of six"
    assert "2 of 4 answers changed" in [e.text for e in root.iter() if e.tag.endswith("text")]
    edges = [float(e.get("x", "0")) for e in root.iter() if e.tag.endswith("text")]
    assert 0 <= min(edges) <= max(edges) <= WIDTH, "nothing is drawn beside the picture"


def test_a_ladder_of_equal_models_can_be_drawn() -> None:
    evidence = [rung("base NF4", "base", 0), rung("tuned", "tuned", 0, parent=fidelity(0.0))]
    assert "same" in ladder_chart(read_ladder(evidence))


def test_rows_for_the_terminal() -> None:
    rows = terminal_rows(judge(None))
    assert all(len(row) == len(HEAD) for row in rows)
    assert rows[0][:3] == ["tuned NF4 + adapter", "base NF4", "4.5"]
    assert rows[1][-1] == "0 of 100"


def test_answers_are_read_from_an_evaluation(tmp_path: Path) -> None:
    assert logged_answers(tmp_path) == {}
    rows = [{"item": "a", "answer": " yes ", "score": 1.0}, {"item": "b", "answer": "no", "score": 0}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks: Mapping[str, Any] = {
        "fidelity": {"kind": "fidelity", "samples": "other.jsonl"}, "routing": {"samples": "samples.jsonl"},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({"tasks": tasks}))
    assert logged_answers(tmp_path) == {"a": ("yes", 1.0), "b": ("no", 0.0)}


def test_preferences_may_make_both_answers_less_likely() -> None:
    evidence = lineage()
    far_from_base = far(parent=fidelity(4, 1.9))(evidence["tuned"])
    assert read_ladder([evidence["base"], far_from_base]).breaks_at == "tuned NF4 + adapter"
    assert read_ladder([evidence["base"], replace(far_from_base, by_preference=True)]).breaks_at is None


def test_a_model_trained_on_preferences_says_how_far_it_went() -> None:
    evidence = lineage()
    started = replace(evidence["tuned"], kind="started", label="first")
    tuned = changed(evidence["tuned"], "fidelity", **{AGAINST_START: fidelity(0.2)})
    ladder = read_ladder([evidence["base"], started, tuned, evidence["merged"]])
    assert ladder.breaks_at is None
    assert [rung.parent for rung in ladder.rungs] == [None, "base NF4", "base NF4", "tuned NF4 + adapter"]
    (line,) = moved_from_start(ladder)
    assert line.startswith("tuned NF4 + adapter: mean KL 0.2 (0.18–0.22) nats per token to what training on")
    assert moved_from_start(judge(None)) == []
    worse = far(parent=fidelity(4, 1.9))(started)
    assert "made the model worse" in str(read_ladder([evidence["base"], worse]).cause)
