"""Each check of the gate and the ladder switched off, one at a time: `python -m tests.reliability.switches`.

A check is switched off in the source of its module as that is imported, in a process of its own; then the
tests that guard it run until one fails. A switch whose text is no longer in the source is an error, and so
are tests that fail with nothing switched off. Prints one JSON document: switch → the test that noticed it;
exits with 1 if one goes unnoticed. `--only WORDS …` takes the switches whose names hold one of these words.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[2]
GATE, SOUNDNESS, THRESHOLDS, CONTAMINATION, POLICY, JUDGED = (
    f"tests/flows/gates/test_{name}.py"
    for name in ("gate", "soundness", "thresholds", "contamination", "policy", "judged")
)
COMMAND, READ, MOVES, ADAPTERS, DIRECTORIES, REPORTS = (
    f"tests/flows/commands/gates/test_{name}.py"
    for name in ("gate", "evidence", "channels", "adapters", "directories", "reports")
)
LADDER, RECIPE = "tests/flows/ladder/test_ladder.py", "tests/flows/test_recipe.py"
CHANNELS, GATES, SIGNING = (
    f"tests/registry/channels/test_{name}.py" for name in ("channels", "decisions", "signing")
)
INTERVALS, CLUSTERS = "tests/stages/statistics/test_intervals.py", "tests/stages/statistics/test_cluster.py"
POWERED = "tests/stages/statistics/test_prediction_powered.py"
HEAVY = "tests/stages/backends/evaluate/test_fidelity"
"""These load torch, so only the tests that matter are run."""
PARITY = f"{HEAVY}.py::test_parity_tells_a_changed_tokenizer"
FOLDS = f"{HEAVY}.py::test_the_fold_is_chosen_by_loss_then_score_then_nearness"
AREA = "tests/stages/backends/evaluate/test_labelled.py::test_it_is_a_gate_s_evidence"
DAMAGE, WEIGHTS = f"{HEAVY}.py::test_a_damaged_reference_leaves_no_scratch", f"{HEAVY}_weights.py"
LONGEST = seconds(300)
"""Seconds for the tests of one switch."""


@dataclass(frozen=True)
class Switch:
    """A check, and how its source reads without it. `tests`: what guards it, the quickest first."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    @property
    def source(self) -> str:
        """The module's source with the check switched off. ValueError where its text is not there once."""
        text = (ROOT / self.file).read_text("utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is {count} times in {self.file}, expected once")
        return text.replace(self.old, self.new)


TABLES = {
    ("flows/gates/soundness.py", "TASK_CHECKS"): ("lambda *_: ()", (SOUNDNESS,)),
    ("flows/gates/soundness.py", "READING_CHECKS"): ("lambda *_: ()", (SOUNDNESS,)),
    ("flows/gates/checks.py", "PAIR_CHECKS"): ("lambda *_: ()", (SOUNDNESS,)),
    ("flows/ladder/checks.py", "CHECKS"): ("lambda *_: None", (LADDER,)),
}
"""Checks that stand in a table: (file, name) → what to put in a check's place, and the tests."""


def part(file: str) -> str:
    """`gates/thresholds` for `flows/gates/thresholds.py`."""
    return file.partition("/")[2].removesuffix(".py")


def of_tables() -> Iterator[Switch]:
    """A switch for every entry of every table."""
    for (file, table), (idle, tests) in TABLES.items():
        source = (ROOT / file).read_text("utf-8")
        for node in ast.parse(source).body:
            if not (isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == table):
                continue
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                old, check = ast.get_source_segment(source, key), ast.get_source_segment(source, value)
                name = f"{part(file)}: {key.value!s}"
                yield Switch(name, file, f"{old}: {check}", f"{old}: {idle}", tests)


def _in(file: str, *tests: str, **switches: tuple[str, str]) -> list[Switch]:
    stem = part(file)
    return [
        Switch(f"{stem}: {name.replace('_', ' ')}", file, old, new, tests)
        for name, (old, new) in switches.items()
    ]


GATE_SWITCHES = [
    *_in(
        "flows/gates/evidence.py", SOUNDNESS,
        samples_lie_in_the_evaluation=("if file.parent != path or not", "if not"),
        no_NaN_in_rows=("row = json.loads(line, parse_constant=refuse_constant)", "row = json.loads(line)"),
        no_NaN_in_results=("results = parse_results(raw)", "results = json.loads(raw)"),
        results_that_cannot_be_used=(
            "digest=hashlib.sha256().hexdigest(), problems=(problem,))",
            "digest=hashlib.sha256().hexdigest(), problems=())",
        ),
    ),
    *_in(
        "flows/gates/rules.py", GATE,
        items_are_paired_by_hash=(
            "values=tuple(mine[item] - other[item] for item in items)",
            "values=tuple(a - b for a, b in zip(mine.values(), other.values()))",
        ),
        what_cannot_be_compared_is_invalid=(
            'return RuleResult(rule=rule.name, verdict="invalid", sentence=message, group=rule.any_of)\n'
            "    differences = paired",
            'return RuleResult(rule=rule.name, verdict="pass", sentence=message, group=rule.any_of)\n'
            "    differences = paired",
        ),
        the_margin=("verdict = verdict_between(bounds.low, bounds.high, rule.threshold)",
                    "verdict = verdict_between(bounds.low, bounds.high, 0.0)"),
        items_of_a_cluster_depend_on_each_other=(
            "mean = clustered_mean(differences.values, differences.clusters, alpha) "
            "if differences.clustered else None",
            "mean = None",
        ),
        Holms_correction=("share = rules[0].alpha / max(1, len(rules) - len(shown))",
                          "share = rules[0].alpha"),
        few_differences_prove_nothing=("if telling < FEWEST:", "if False:"),
        one_item_has_no_spread=("if len(set(differences.clusters)) < 2:", "if False:"),
    ),
    *_in(
        "flows/gates/rules.py", AREA,
        few_answers_of_one_label_prove_nothing=(
            "*([sum(good), len(good) - sum(good)] if good else [])]", "]",
        ),
    ),
    *_in(
        "flows/gates/result.py", GATE,
        too_few_to_tell_is_insufficient=('< threshold else "insufficient"', '< threshold else "pass"'),
    ),
    *_in(
        "flows/gates/rules.py", "tests/flows/gates/test_slices.py",
        slices_are_corrected_together=("together = rule.any_of or rule.family", "together = rule.any_of"),
        a_slice_has_its_own_items_only=("candidate = _part(rule, candidate)", "pass"),
    ),
    *_in(
        "flows/gates/judged/claim.py", JUDGED,
        a_judge_alone_shows_nothing=('nothing = {"verdict": "insufficient", ', "nothing = {"),
        labels_are_drawn_at_random=("(differences.values, labels, clusters) > CHOSEN",
                                    "(differences.values, labels, clusters) > 1e9"),
        equal_answers_are_labelled_too=("(said.alike, labels, clusters) > CHOSEN",
                                        "(said.alike, labels, clusters) > 1e9"),
        a_label_on_one_side_only_is_none=(" and not said.half", ""),
        few_labels_show_nothing=("if len(groups) < FEWEST_LABELS:", "if len(groups) < 2:"),
    ),
    *_in(
        "stages/statistics/prediction_powered.py", POWERED, "tests/reliability/test_judge.py",
        the_judges_error_counts=("_Split(said - weight * seen, ", "_Split(seen - weight * seen, "),
        a_judge_that_agrees_is_not_taken_for_perfect=("errors=np.append(split.errors, worst)",
                                                     "errors=np.append(split.errors, 0.0)"),
    ),
    *_in(
        "flows/gates/gate.py", GATE, CONTAMINATION, SOUNDNESS,
        the_worst_rule_counts=("verdict=max(_counted(results)", "verdict=min(_counted(results)"),
        an_invalid_claim_makes_its_group_invalid=('"invalid" if "invalid" in verdicts else min(', "(min)("),
        rules_on_tasks_cannot_be_waived=('result.kind != "task" and ', ""),
        what_is_invalid_cannot_be_waived=(' and result.verdict == "fail":', ":"),
        waivers_are_for_what_they_name=("if waiver.rule == result.rule and", "if"),
        contaminated_items_fail=('"pass" if held <= limits.max_items else "fail"', '"pass"'),
        contamination_is_asked_for=("if policy.contamination is not None:", "if False:"),
        training_data_that_nobody_looked_into=(
            'kind="contamination", verdict="invalid"', 'kind="contamination", verdict="pass"',
        ),
        items_without_their_question=(
            'evaluate again" if unasked else None', 'evaluate again" if False else None',
        ),
        nothing_was_looked_for=("if absent := sorted(tasks - logged.keys()):", "if absent := None:"),
        the_size_of_the_sample=("references, policy.evidence.min_items)", "references, 1)"),
    ),
    *_in(
        "flows/gates/contamination.py", CONTAMINATION,
        items_word_for_word=('exact = bool(text) and " ".join(text) in met_whole', "exact = False"),
        items_in_large_part=("if exact or (mine and share >= limits.share):", "if exact:"),
        sequences_over_all_rows=("met |= sequences", "met = sequences"),
        case_and_punctuation_aside=('normalize("NFKC", text)).lower()', 'normalize("NFKC", text))'),
    ),
    *_in(
        "flows/gates/contamination.py", DIRECTORIES,
        training_data_that_cannot_be_read=(
            "except (OSError, pyarrow.ArrowException, KeyError, AttributeError, TypeError) as error:\n"
            "        raise Usage(",
            "except (OSError, pyarrow.ArrowException, KeyError, AttributeError, TypeError) as error:\n"
            "        return\n        raise Usage(",
        ),
    ),
    *_in(
        "flows/gates/thresholds.py", THRESHOLDS, GATE,
        size=("if policy.max_bytes is not None:", "if False:"),
        bits_per_weight=("if policy.max_bits_per_weight is not None:", "if False:"),
        latency=("if policy.max_latency_ms is not None:", "if False:"),
        a_size_that_was_not_measured=(
            'return RuleResult(rule=name, kind="ceiling", verdict="invalid", sentence=sentence)\n'
            "    verdict: Verdict",
            'return RuleResult(rule=name, kind="ceiling", verdict="pass", sentence=sentence)\n'
            "    verdict: Verdict",
        ),
        latency_that_was_not_measured=(
            'return RuleResult(rule=name, kind="ceiling", verdict="invalid", sentence=sentence)\n    ordered',
            'return RuleResult(rule=name, kind="ceiling", verdict="pass", sentence=sentence)\n    ordered',
        ),
        the_upper_bound_of_latency=(
            "if above is not None and ordered[above - 1] <= ceiling:", "if value <= ceiling:",
        ),
        required_tasks=("for name in required.tasks if", "for name in () if"),
        required_facts=("for name in lacking] + list(missing)", "for name in lacking]"),
        fidelity_of_an_unknown_type=(
            'return [_unknown("the candidate\'s quantization type is not known: give it with --quant")]',
            "return []",
        ),
        fidelity_of_a_type_without_limits=(
            'return [_unknown(f"the policy has no limits for {quant}; it has some for {known}")]',
            "return []",
        ),
        fidelity_from_damaged_evidence=("if measured.problems:", "if False:"),
        fidelity_that_was_not_measured=(
            'return [_unknown(f"the candidate was not compared with {limits.task or whom}: evaluate its '
            'fidelity")]',
            "return []",
        ),
        fidelity_against_the_own_parent=("(parent is None or task.reference == parent)", "True"),
        fidelity_from_finite_logits=("if figure is None or not task.finite:", "if figure is None:"),
        a_metric_of_fidelity_that_is_missing=(
            'return RuleResult(rule=rule, kind="fidelity", verdict="invalid"',
            'return RuleResult(rule=rule, kind="fidelity", verdict="pass"',
        ),
        the_whole_interval_keeps_a_limit=('low, high = figure["low"], figure["high"]',
                                          'low = high = figure["value"]'),
        limits_that_are_floors=('AT_LEAST = frozenset({"same_top"})', "AT_LEAST = frozenset()"),
    ),
    *_in(
        "flows/gates/sources.py", READ, ADAPTERS, COMMAND,
        a_candidate_that_was_never_evaluated=(
            'why = f"there is no evaluation of {model.manifest.kind} {model.id[:12]}"\n'
            '        return Evidence(artifact_id="none", digest="none", subject=model.id, problems=(why,))',
            'return Evidence(artifact_id="none", digest="none", subject=model.id)',
        ),
        an_evaluation_of_another_artifact=(
            "subject=model.id,\n        files=", "subject=None,\n        files=",
        ),
        files_other_than_those_recorded=(
            "files={name: entry.sha256 for name, entry in evaluation.manifest.files.items()}", "files={}",
        ),
        the_NF4_setting_of_the_training=("nf4=nf4,", "nf4=None,"),
        evaluations_that_cannot_be_read=(
            'return Evidence(artifact_id=evaluation.id, digest="none", subject=model.id, problems=(why,))',
            'return Evidence(artifact_id=evaluation.id, digest="none", subject=model.id)',
        ),
        a_candidate_whose_files_are_gone=("if not (gone := registry.gates.collected(candidate.id)):",
                                          "if not (gone := None):"),
        a_whole_lineage=("missing = family.missing if policy.evidence.lineage else []", "missing = []"),
        verified_bytes=("if policy.evidence.verified:\n        problems", "if False:\n        problems"),
        comparable_evaluations_are_sought=("if _likeness(other, needed[role]) == wanted and", "if"),
        fidelity_is_read_against_the_parent=('.get("subject") == parent.id', '.get("subject") != "x"'),
        the_channel_is_what_is_compared_with=(
            "candidate.id, baseline.id if baseline else None, chosen, notes)",
            "candidate.id, None, chosen, notes)",
        ),
        an_adapter_is_judged_as_it_is_served=(
            'if kind == "adapter" and role in {"candidate", "live"} and on_16bit(registry, model):',
            "if False:",
        ),
        an_adapter_is_not_its_own_parent=("        parent = None", "        pass"),
        an_adapter_is_compared_with_what_was_trained=(
            "evaluations = [e for e in evaluations if not as_stored(e)]", "pass",
        ),
    ),
    *_in(
        "flows/gates/directories.py", DIRECTORIES,
        directories_have_no_lineage=(
            "if policy.evidence.lineage or policy.evidence.verified:", "if False:",
        ),
    ),
    *_in(
        "flows/commands/gates/gate.py", COMMAND, MOVES,
        a_waiver_needs_a_reason_and_a_name=(
            "if not (is_said(arguments.reason) and is_said(arguments.who)):\n"
            '        raise Usage("--waive needs --reason WHY and --who NAME; both are recorded',
            "if False:\n"
            '        raise Usage("--waive needs --reason WHY and --who NAME; both are recorded',
        ),
        a_move_by_hand_needs_a_reason_and_a_name=(
            "if not (is_said(arguments.reason) and is_said(arguments.who)):\n"
            '            raise Usage("--waive needs --reason WHY and --who NAME; both are kept',
            "if False:\n"
            '            raise Usage("--waive needs --reason WHY and --who NAME; both are kept',
        ),
        a_channel_that_serves_nothing=("if channel == baseline:", "if False:"),
        the_policy_of_the_channel=("refuse_other_policy(registry, channel, policy)", "pass"),
        a_baseline_other_than_the_channels=("elif live is not None and live.id != compared.id:",
                                            "elif False:"),
        the_exit_code_of_the_verdict=("verdict_id))), decision.exit_code", "verdict_id))), 0"),
        the_exit_code_of_a_forged_decision=("Reply(document, text, 4 if problem else 0)",
                                            "Reply(document, text)"),
    ),
    *_in(
        "flows/gates/latency.py", COMMAND,
        latency_of_another_artifact=("if subject is not None and measured != subject:", "if False:"),
        latencies_that_are_no_durations=(
            'if not durations or not all(0 < value < float("inf") for value in durations):', "if False:",
        ),
    ),
    *_in(
        "flows/gates/reports.py", REPORTS,
        a_group_of_which_no_rule_passes=('("pass" not in group or "invalid" in group)', "not rule.group"),
        failures_in_the_JUnit_report=("if rule in failed:", "if False:"),
        what_is_invalid_in_the_JUnit_report=("elif rule in broken:", "elif False:"),
    ),
    *_in(
        "flows/gates/policy.py", POLICY,
        a_margin_of_nothing=('if self.role == "keep" and self.margin == 0:', "if False:"),
        a_margin_beyond_every_share=('if self.scores == "binary" and not self.margin < 1:', "if False:"),
        groups_are_of_improve_rules=('if self.any_of is not None and self.role != "improve":', "if False:"),
        a_group_has_one_risk=("if len(alphas) > 1:", "if False:"),
        fidelity_without_a_limit=("if not self.limits:", "if False:"),
        a_type_has_its_limits_once=("if len(set(quants)) != len(quants):", "if False:"),
    ),
    *_in(
        "flows/recipe.py", RECIPE,
        promotion_needs_a_gate=("if promote is not None and recipe.gate is None:\n", "if False:\n"),
        a_run_has_no_latency=("if recipe.gate is not None and recipe.gate.max_latency_ms is not None:",
                              "if False:"),
    ),
    *_in(
        "stages/statistics/exact.py", CLUSTERS, "tests/reliability/test_gates.py",
        few_discordant_pairs_raise_the_bar=("if discordant >= ENOUGH:", "if True:"),
    ),
    *_in(
        "stages/statistics/intervals.py", INTERVALS,
        Tangos_interval=("variance = n * (2 * lost_share + difference * (1 - difference))",
                         "variance = gained + lost - (gained - lost) ** 2 / n"),
    ),
    *_in(
        "stages/statistics/cluster.py", CLUSTERS,
        skewness_of_rare_losses=("low, high = (mean - error * hall_inverse(edge, lean) for edge in (t, -t))",
                                 "low, high = mean - error * t, mean + error * t"),
    ),
]  # fmt: skip
SIGNATURE_SWITCHES = [
    *_in(
        "registry/channels/decisions.py", CHANNELS, GATES, MOVES,
        a_move_needs_a_decision=("if decision_id is None:\n        raise GateRequired(",
                                 "if decision_id is None:\n        return None  # type: ignore\n"
                                 "        raise GateRequired("),
        the_decision_passed=('if decision.verdict != "pass":', "if False:"),
        the_decision_is_about_that_artifact=("if decision.candidate != artifact_id:", "if False:"),
        the_decision_compares_with_what_is_live=(
            "if current is not None and decision.baseline != current:", "if False:",
        ),
        the_decision_was_under_the_channels_policy=(
            "if policy is not None and decision.policy_digest != policy:", "if False:",
        ),
        the_decision_is_as_it_was_made=("if decision.content_digest != decision.id:", "if False:"),
        the_decision_is_signed=("if problem := _problem(decision, keys):", "if problem := None:"),
        decisions_hold_finite_values=("return canonical(dict(value)).decode()",
                                      "return json.dumps(dict(value))"),
    ),
    *_in(
        "registry/channels/signing.py", SIGNING, MOVES,
        signatures_are_verified=("binascii.Error, ValueError):\n        return False",
                                 "binascii.Error, ValueError):\n        return True"),
        no_signature_is_none=("if signer is None or signature is None:", "if False:"),
        keys_have_to_be_trusted=("if pem is None:\n            return (",
                                 "if pem is None:\n            return None\n            ("),
        keys_are_on_P256=("if not isinstance(key, ec.EllipticCurvePrivateKey) or", "if"),
    ),
]  # fmt: skip
LADDER_SWITCHES = [
    *_in(
        "flows/ladder/distance.py", LADDER,
        the_whole_interval_of_a_distance=("    if kl.low <= limit:", "    if kl.value <= limit:"),
        the_limit_is_of_the_type=("LIMITS.get(evidence.quant, UNKNOWN)", "UNKNOWN"),
        nearer_to_the_base_than_to_the_parent=(
            'if rung.kind != "apart" and base is not None and base.high < kl.low:', "if False:",
        ),
    ),
    *_in(
        "flows/ladder/checks.py", LADDER,
        the_whole_interval_of_a_fold=("kl.low <= FOLD_LIMIT", "kl.high <= FOLD_LIMIT"),
        lost_answers_are_significant=(
            "or tango(rung.gained, rung.lost, rung.compared, alpha=0.01).high >= 0", "",
        ),
    ),
    *_in(
        "flows/ladder/ladder.py", LADDER,
        the_first_broken_rung=("broken = next((rung for rung in rungs if rung.findings), None)",
                               "broken = next((rung for rung in reversed(rungs) if rung.findings), None)"),
        a_rung_has_its_own_parent=('"quantized": "merged"', '"quantized": "tuned"'),
    ),
    *_in(
        "stages/backends/evaluate/fidelity/parity.py", PARITY,
        vocabularies_id_by_id=(
            "wrong = sum(word is not None and _word(found, id_) != word for id_, word in "
            "enumerate(expected.words))",
            "wrong = 0",
        ),
        token_ids_of_chats=("if ours != theirs:", "if False:"),
        a_BOS_too_many=("double |= bos is not None and ours[:2] == [bos, bos]", "pass"),
        special_tokens=("if found.special.get(name) != expected.special[name]", "if False"),
        the_text_of_the_template=('"template": found.template == expected.template', '"template": True'),
        where_an_answer_ends=('"stop": _stop(folder, ids["eos"])', '"stop": None'),
    ),
    *_in(
        "stages/backends/evaluate/fidelity/weights.py", WEIGHTS,
        updates_that_did_not_arrive=("if share is not None and abs(share - 1) > TOLERANCE:", "if False:"),
        tensors_of_another_base=("foreign.append(name)", "pass"),
        tensors_that_are_missing=('"missing": sorted(planned - set(merged_files))', '"missing": []'),
        tensors_that_were_added=('"added": sorted(set(merged_files) - planned)', '"added": []'),
        values_that_are_not_finite=("nonfinite.append(name)", "pass"),
        a_head_that_was_tied=('"tied": _ties(merged) and not plan.tied', '"tied": False'),
    ),
    *_in(
        "stages/backends/evaluate/token_lm.py", DAMAGE,
        finite_logits=("if not bool(torch.isfinite(logits).all()):", "if False:"),
    ),
    *_in(
        "stages/statistics/merge_choice.py", FOLDS,
        the_loss_decides_first=("if loss.low > 0 or loss.high < 0:", "if False:"),
        the_score_decides_next=("if bounds.low > 0 or bounds.high < 0:", "if False:"),
        the_nearer_fold=('"16bit" if evidence.kl["16bit"] < evidence.kl["nf4"] else "nf4"', '"16bit"'),
    ),
]  # fmt: skip


def switches() -> list[Switch]:
    """All of them."""
    return [*of_tables(), *GATE_SWITCHES, *SIGNATURE_SWITCHES, *LADDER_SWITCHES]


class Without(importlib.abc.MetaPathFinder):
    """Imports one module from the source of a switch."""

    def __init__(self, switch: Switch) -> None:
        self.module, self.source, self.imported = switch.module, switch.source, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = self._loader(fullname, spec.origin)
        return spec

    def _loader(self, name: str, origin: str) -> importlib.machinery.SourceFileLoader:
        outer = self

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> Any:
                outer.imported = True
                return compile(outer.source, origin, "exec", dont_inherit=True)

        return Loader(name, origin)


class Seen:
    """The tests that failed, as pytest tells of them."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed += 1


def _run(switch: Switch | None, tests: Sequence[str], answer: Connection) -> None:
    """In a process of its own: the tests, until one fails where something is switched off."""
    finder, seen = Without(switch) if switch else None, Seen()
    if finder is not None:
        sys.meta_path.insert(0, finder)
    # other plugins cost more than the tests; one that spread them over processes would lose the switch
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with contextlib.ExitStack() as stack:
        nothing = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(contextlib.redirect_stderr(nothing))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        words = ["-q", "-o", "addopts=", "-p", "pytest_timeout", "-p", "no:cacheprovider", *tests]
        # started elsewhere, bounded by the clock, or a server: none of these would see the switch
        words += ["-k", "not postgresql and not quick and not openssl", "--basetemp", f"{folder}/t"]
        code = pytest.main([*words, *(["-x"] if switch else [])], plugins=[seen])
    reached = finder is None or finder.imported
    answer.send({"code": int(code), "failed": seen.failed, "passed": seen.passed, "reached": reached})
    answer.close()


def tried(switch: Switch | None, tests: Sequence[str]) -> dict[str, Any]:
    """What the tests say with this check switched off; with None, as the source is."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(switch, tests, theirs))
    child.start()
    theirs.close()
    try:
        said: dict[str, Any] = ours.recv() if ours.poll(LONGEST) else {"code": -1, "error": "took too long"}
    except EOFError:
        said = {"code": -1, "error": "the process that ran the tests ended without a word"}
    if child.is_alive() and said["code"] == -1:
        child.kill()
    child.join()
    return said


def survey(chosen: Sequence[Switch]) -> dict[str, Any]:
    """Every one of `chosen`, and their tests as the source is."""
    _load_ahead(heavy=any(test.startswith(HEAVY) for switch in chosen for test in switch.tests))
    begun = time.monotonic()
    whole = tried(None, sorted({test for switch in chosen for test in switch.tests}))
    noticed, unnoticed = {}, {}
    for switch in chosen:
        said = tried(switch, switch.tests)
        if said["code"] == pytest.ExitCode.TESTS_FAILED and said["reached"] and said["failed"]:
            noticed[switch.name] = said["failed"][0]
        else:
            unnoticed[switch.name] = said
        print(switch.name, "→", noticed.get(switch.name, f"UNNOTICED {said}"), file=sys.stderr, flush=True)
    return {
        "switches": len(chosen), "noticed": len(noticed), "unnoticed": unnoticed, "by": noticed,
        "with_nothing_switched_off": whole, "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def _load_ahead(heavy: bool) -> None:
    """What the tests import beside the project's own modules: once, before the processes part."""
    light = ("cryptography.x509", "hypothesis", "jinja2", "numpy", "psutil", "pyarrow.parquet", "pydantic",
             "sqlalchemy.dialects.sqlite", "sqlite3", "xml.etree.ElementTree", "yaml")  # fmt: skip
    for name in (*light, *(("torch", "transformers", "peft", "datasets", "lm_eval") if heavy else ())):
        importlib.import_module(name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", default=[""], metavar="WORDS", help="switches whose names hold one"
    )
    given = parser.parse_args(arguments)
    chosen = [s for s in switches() if any(words.lower() in s.name.lower() for words in given.only)]
    report = survey(chosen)
    print(json.dumps(report, indent=1))
    sound = report["with_nothing_switched_off"]["code"] == 0
    return 0 if chosen and sound and not report["unnoticed"] else 1


if __name__ == "__main__":
    sys.exit(main())
