"""Everything that must never pass: each kind of broken evidence, and the check that finds it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.gates import checks as gate_checks
from flows.gates import evidence as reading
from flows.gates.gate import Evidence, GatePolicy, decide, load_evidence
from flows.gates.soundness import Expected, RequiredNf4
from tests.flows.evaluation_files import NF4, Change, Results, Row, evaluation, item, write
from tests.flows.gates.judging import evidence, rows_changed, rule


def _set(*path: str, value: Any) -> Change:
    def change(results: Results, _: list[Row]) -> None:
        place: Any = results
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def _figure(metric: str, damage: Callable[[list[Row]], object] = lambda _: None) -> Change:
    """A metric that is computed from all items together."""

    def change(results: Results, rows: list[Row]) -> None:
        summary = {"value": 1.0, "low": 0.9, "high": 1.0, "n": len(rows), "figure": "f1", "counts": "c"}
        results["tasks"]["heldout"]["metrics"][metric] = summary
        for row in rows:
            row["counts"] = {"c": [1, 1, 1]}
        damage(rows)

    return change


def _drawn(damage: Callable[[list[Row]], object] = lambda _: None) -> Change:
    """Two drawn answers of each item, one of them right."""

    def change(results: Results, rows: list[Row]) -> None:
        summary = {"value": 0.5, "low": 0.4, "high": 0.6, "n": len(rows)}
        results["tasks"]["heldout"]["metrics"]["pass@1[m]"] = summary
        for row in rows:
            row["drawn"] = [{"seed": k, "answer": "a", "scores": {"m": k}} for k in (0, 1)]
            row["scores"]["pass@1[m]"] = 0.5
        damage(rows)

    return change


def _damaged(change: Change | None = None, late: Change | None = None, **given: Any) -> dict[str, Any]:
    return {"change": change, "late": late, **given}


HELDOUT = ("tasks", "heldout")
BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    # what is broken: (the check that finds it, how it is broken, what the gate says)
    "no items": ("samples are not empty", _damaged(rows_changed(lambda rows: rows.clear())), "is empty"),
    "truncated": (
        "no row is missing",
        _damaged(rows_changed(lambda rows: rows.pop())),
        "100 items were measured, 99",
    ),
    "one added": (
        "no row is missing",
        _damaged(rows_changed(lambda rows: rows.append({**rows[0], "item": item(500)}))),
        "100 items were measured, 101",
    ),
    "twice": (
        "no item is twice",
        _damaged(rows_changed(lambda rows: rows.__setitem__(1, rows[0]))),
        "appears twice",
    ),
    "nan": (
        "rows can be read",
        _damaged(rows_changed(lambda rows: rows[3]["scores"].update(exact_match=float("nan")))),
        "NaN is not a number in JSON",
    ),
    "infinite": (
        "rows can be read",
        _damaged(rows_changed(lambda rows: rows[3]["scores"].update(exact_match=float("inf")))),
        "Infinity is no",
    ),
    "no number": (
        "scores are finite",
        _damaged(rows_changed(lambda rows: rows[3]["scores"].update(exact_match=None))),
        "not a finite number",
    ),
    "a truth": (
        "scores are finite",
        _damaged(rows_changed(lambda rows: rows[3]["scores"].update(exact_match=True))),
        "is True, not a finite",
    ),
    "not binary": (
        "scores are as the rule says",
        _damaged(rows_changed(lambda rows: rows[3]["scores"].update(exact_match=0.5))),
        "other than 0 and 1",
    ),
    "rows that settings were chosen by": (
        "no settings were chosen by the rows",
        _damaged(lambda results, _: results["tasks"]["heldout"].update(config={"split": "validation"})),
        "was asked validation rows, by which settings are chosen",
    ),
    "counts missing": (
        "every item has the counts of figures of all",
        _damaged(_figure("f1", lambda rows: rows[3].pop("counts"))),
        "1 items lack the 3 counts that f1 is computed from",
    ),
    "counts below 0": (
        "every item has the counts of figures of all",
        _damaged(_figure("f1", lambda rows: rows[3].update(counts={"c": [1, 1, -1]}))),
        "1 items lack the 3 counts",
    ),
    "counts edited": (
        "the summary agrees with the samples",
        _damaged(_figure("f1", lambda rows: rows[3].update(counts={"c": [0, 1, 1]}))),
        "results.json says f1 is 1.0, its samples say 0.99",
    ),
    "a right answer more than counted": (
        "pass@k is that of the drawn answers",
        _damaged(_drawn(lambda rows: rows[3]["drawn"][0]["scores"].update(m=1))),
        "pass@1[m] is 0.5, its 2 drawn answers say otherwise",
    ),
    "drawn answers are gone": (
        "pass@k is that of the drawn answers",
        _damaged(_drawn(lambda rows: rows[3].pop("drawn"))),
        "pass@1[m] is computed from 1 or more drawn answers, 0 are recorded",
    ),
    "an answer is drawn twice": (
        "pass@k is that of the drawn answers",
        _damaged(_drawn(lambda rows: rows[3]["drawn"][1].update(seed=0))),
        "two answers were drawn with one seed",
    ),
    "a figure as a share": (
        "figures of all items are taken as such",
        _damaged(_figure("exact_match")),
        "exact_match is a figure of all items together: set scores: real",
    ),
    "no score": ("rows can be read", _damaged(rows_changed(lambda rows: rows[3].pop("scores"))), "KeyError"),
    "some without": (
        "every item has every metric",
        _damaged(rows_changed(lambda rows: rows[3]["scores"].pop("exact_match"))),
        "no score for some metric",
    ),
    "other items": (
        "same items",
        _damaged(rows_changed(lambda rows: rows[3].update(item=item(10_000)))),
        "2 items were measured on one side",
    ),
    "other prompts": (
        "same prompts",
        _damaged(rows_changed(lambda rows: rows[3].update(prompt_hash="x"))),
        "1 items were asked with different",
    ),
    "other clusters": (
        "same clusters",
        _damaged(rows_changed(lambda rows: rows[3].update(cluster="p"))),
        "1 items are in another cluster",
    ),
    "no row": ("rows can be read", _damaged(rows_changed(lambda rows: rows.__setitem__(3, []))), "line 4"),  # type: ignore[call-overload]
    "cut off": (
        "samples are those measured",
        _damaged(late=rows_changed(lambda rows: rows[7]["scores"].update(exact_match=0.0))),
        "is not the file that was measured",
    ),
    "scores edited, digests too": (
        "the summary agrees with the samples",
        _damaged(rows_changed(lambda rows: rows[7]["scores"].update(exact_match=0.0))),
        "results.json says exact_match is 1.0, its samples say 0.99",
    ),
    "few-shot": (
        "same few-shot examples",
        _damaged(_set(*HELDOUT, "fewshot", value=3)),
        "fewshot differs (3 ag",
    ),
    "limit": ("same limit", _damaged(_set(*HELDOUT, "limit", value=10)), "limit differs"),
    "task config": (
        "same task config",
        _damaged(_set(*HELDOUT, "config_digest", value="d")),
        "config digest differs",
    ),
    "harness": ("same harness", _damaged(_set("harness", "version", value="0.4.12")), "harness differs"),
    "seed": ("same seed", _damaged(_set("seed", value=1)), "seed differs"),
    "template": ("same chat template", _damaged(_set("chat_template", value="u")), "chat template differs"),
    "other NF4": (
        "same NF4 setting",
        _damaged(nf4={**NF4, "double_quant": False}),
        "NF4 setting differs",
    ),
    "other arithmetic": (
        "same arithmetic",
        _damaged(
            computed_with="bfloat16 weights, computed in float32 with transformers 5.19.0 on cpu",
            also="bfloat16 weights with transformers 5.19.0 on cpu",
        ),
        "one side was computed in float32, the other in bfloat16",
    ),
    "no task": ("there are tasks", _damaged(_set("tasks", value={})), "holds no task"),
    "metric absent": (
        "both have the metric",
        _damaged(
            lambda results, rows: (
                results["tasks"]["heldout"].pop("metrics"),
                [row.update(scores={"f1": 1.0}) for row in rows],
                None,
            )[2]
        ),
        "was not measured on heldout with exact_match",
    ),
    "no file": (
        "samples are there",
        _damaged(_set(*HELDOUT, "samples", value="samples_other.jsonl")),
        "the samples samples_other.jsonl are missing",
    ),
    "elsewhere": (
        "samples are there",
        _damaged(_set(*HELDOUT, "samples", value="../base/samples_heldout.jsonl")),
        "are missing",
    ),
    "of another model": (
        "it is about that artifact",
        _damaged(subject="x" * 64, expected=Expected(subject="m" * 64)),
        "is an evaluation of xxxxxxxxxxxx, not of mmmmmmmmmmmm",
    ),
    "edited results": (
        "files are those registered",
        _damaged(
            expected=Expected(files={"results.json": "0" * 64, "samples_heldout.jsonl": "1" * 64}),
        ),
        "the registry recorded 000000000000",
    ),
    "a file the registry has not": (
        "files are those registered",
        _damaged(expected=Expected(files={"something.else": "0" * 64})),
        "the registry recorded no such file",
    ),
    "NF4 other than trained": (
        "NF4 is as trained",
        _damaged(nf4=NF4, expected=Expected(nf4=RequiredNf4({**NF4, "double_quant": False}))),
        "was measured with the NF4 setting",
    ),
    "quantized file measured in NF4": (
        "NF4 is as trained",
        _damaged(nf4=NF4, expected=Expected(nf4=RequiredNf4())),
        "it is served without NF4",
    ),
    "too few items": (
        "enough items",
        _damaged(min_items=101),
        "has 100 items, the policy asks for at least 101",
    ),
}
"""What must never pass, each with a check of its own that finds it."""
UNREADABLE: dict[str, Change] = {
    "no model": _set("model", value={}),
    "tasks are none": _set("tasks", value=None),
    "tasks are a list": _set("tasks", value=["heldout"]),
    "a figure is NaN": _set(*HELDOUT, "metrics", "exact_match", "low", value=float("nan")),
    "no seed": lambda results, _: (results.pop("seed"), None)[1],
    "the name of samples is a number": _set(*HELDOUT, "samples", value=3),
    "the digest is none": _set(*HELDOUT, "samples_sha256", value=None),
}


def broken_pair(tmp_path: Path, name: str) -> tuple[GatePolicy, Evidence, Evidence]:
    given = dict(BROKEN[name][1])
    policy = rule("keep", 0.5)
    policy = policy.model_copy(
        update={"evidence": policy.evidence.model_copy(update={"min_items": given.pop("min_items", 1)})}
    )
    expected = given.pop("expected", None)
    sound = evidence(
        tmp_path / "base", [1.0] * 100, nf4=NF4 if "nf4" in given else None,
        computed_with=given.pop("also", None),
    )  # fmt: skip
    folder = write(tmp_path / "broken", evaluation([1.0] * 100, given.pop("change"), **given))
    return policy, load_evidence(folder, "broken", expected), sound


@pytest.mark.parametrize("name", BROKEN)
def test_broken_evidence_is_invalid_on_either_side(tmp_path: Path, name: str) -> None:
    policy, broken, sound = broken_pair(tmp_path, name)
    for candidate, baseline in ((broken, sound), (sound, broken)):
        decision = decide(policy, candidate, {"baseline": baseline})
        assert (decision.verdict, decision.exit_code) == ("invalid", 3)
    assert BROKEN[name][2] in decide(policy, broken, {"baseline": sound}).rules[0].sentence


CHECKS = {
    **dict.fromkeys(reading.TASK_CHECKS, (reading, "TASK_CHECKS")),
    **dict.fromkeys(reading.READING_CHECKS, (reading, "READING_CHECKS")),
    **{name: (gate_checks, "PAIR_CHECKS") for name in gate_checks.PAIR_CHECKS if name != "both are sound"},
}


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    """Switch one check off: the damage that it is there for is then no longer found by its reason."""
    module, table = CHECKS[check]
    guarded = [name for name, (finds, _, _) in BROKEN.items() if finds == check]
    assert guarded, f"nothing in BROKEN needs the check {check!r}"
    monkeypatch.setitem(getattr(module, table), check, lambda *_: ())
    for number, name in enumerate(guarded):
        policy, broken, sound = broken_pair(tmp_path / str(number), name)
        said = ""
        with contextlib.suppress(KeyError):  # unguarded, the arithmetic may find nothing to work on
            said = decide(policy, broken, {"baseline": sound}).rules[0].sentence
        assert BROKEN[name][2] not in said


def test_without_the_soundness_check_no_problem_of_a_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gate_checks.PAIR_CHECKS, "both are sound", lambda *_: ())
    policy, broken, sound = broken_pair(tmp_path, "cut off")
    assert decide(policy, broken, {"baseline": sound}).verdict != "invalid"


@pytest.mark.parametrize("name", UNREADABLE)
def test_results_that_make_no_sense_are_invalid(tmp_path: Path, name: str) -> None:
    broken = evidence(tmp_path / "broken", [1.0] * 100, UNREADABLE[name])
    decision = decide(rule("keep", 0.5), broken, {"baseline": evidence(tmp_path / "base", [1.0] * 100)})
    assert decision.verdict == "invalid"
    reasons = ("results.json of broken cannot be used", "are missing", "is not the file that was measured")
    assert any(reason in decision.rules[0].sentence for reason in reasons)


NF4_WORDS = "NF4 with double quantization, computed in {} with transformers 5.19.0{} on cpu"
FLOAT16 = "float16 weights, computed in {} with transformers 5.19.0 on cpu"
GPTQ = "GPTQ by GPTQModel 7.6.0, float16 scales, computed in {} with transformers 5.19.0 on cpu"
GGUF = "GGUF Q4_K - Medium on llama.cpp (llama-cpp-python 0.3.36) on cpu"


@pytest.mark.parametrize(
    ("ours", "theirs", "alike"),
    [
        (NF4_WORDS.format("bfloat16", ", with a LoRA adapter"), NF4_WORDS.format("bfloat16", ""), True),
        (NF4_WORDS.format("float32", ", with a LoRA adapter"), NF4_WORDS.format("bfloat16", ""), False),
        (FLOAT16.format("float32"), FLOAT16.format("bfloat16"), False),
        (FLOAT16.format("float32"), "float16 weights with transformers 5.19.0 on cpu", False),
        ("bfloat16 weights with transformers 5.19.0, computed in float32, with a LoRA adapter on cpu",
         "bfloat16 weights with transformers 5.19.0 on cpu", False),
        (GPTQ.format("float32"), GPTQ.format("bfloat16"), False),
        # what a gate is about: a file and what it was made from, in two engines or in two forms
        (GGUF, FLOAT16.format("float32"), True),
        (GGUF, GGUF, True),
        (GGUF, NF4_WORDS.format("bfloat16", ""), True),
        (GPTQ.format("float32"), NF4_WORDS.format("bfloat16", ""), True),
        (FLOAT16.format("float32"), NF4_WORDS.format("bfloat16", ""), True),
        # a GPU computes in the type that is stored
        ("float16 weights with transformers 5.19.0 on cuda",
         "bfloat16 weights with transformers 5.19.0 on cuda", True),
        (None, FLOAT16.format("float32"), True),
        ("something of later", FLOAT16.format("float32"), True),
    ],
)  # fmt: skip
def test_like_forms_are_compared_in_one_arithmetic(
    tmp_path: Path, ours: str | None, theirs: str | None, alike: bool
) -> None:
    candidate = evidence(tmp_path / "candidate", [1.0] * 100, computed_with=ours)
    baseline = evidence(tmp_path / "base", [1.0] * 100, computed_with=theirs)
    for one, other in ((candidate, baseline), (baseline, candidate)):
        decision = decide(rule("keep", 0.5), one, {"baseline": other})
        assert (decision.verdict == "pass") == alike
        said = decision.rules[0].sentence
        assert ("evaluate both again in one type" in said) != alike
        assert alike or (str(ours) in said and str(theirs) in said)
