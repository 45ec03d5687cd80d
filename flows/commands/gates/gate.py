"""`tuneline gate`, `promote` and `channels`: what each does."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Iterable
from pathlib import Path

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.configuration.validation import validate
from flows.configuration.yaml_text import read_yaml
from flows.errors import Usage
from flows.formatting import short
from flows.gates.ancestry import nf4_only
from flows.gates.channel import record, refuse_other_policy
from flows.gates.directories import from_directories
from flows.gates.gate import GatePolicy, Waived, decide
from flows.gates.judged.labels import read_labels
from flows.gates.latency import read_latency
from flows.gates.plan import RulePlan, plan_rules
from flows.gates.reports import junit, junit_error, lines, markdown, markdown_error
from flows.gates.sources import GateInput, from_registry
from flows.run.readers import remark
from registry import Artifact, Registry, Waiver
from registry.channels.channels import CHANNEL
from registry.errors import NotFound

MOST_ITEMS = 100_000_000
"""That `gate plan` reckons with."""


def run(arguments: argparse.Namespace) -> Reply:
    """Judge, record, report. The reports are also written where no decision comes about."""
    title = f"gate of {arguments.candidate}"
    try:
        return _judge(arguments, title)
    except Exception as error:
        _report(arguments, junit_error(title, str(error)), markdown_error(title, str(error)))
        raise


def _judge(arguments: argparse.Namespace, title: str) -> Reply:
    waived, labels = _waivers(arguments), read_labels(arguments.labels)
    directories = [Path(ref).is_dir() for ref in (arguments.candidate, arguments.baseline) if ref]
    if all(directories) and len(directories) == 2:
        policy = load_policy(arguments.policy, None)
        case, verdict_id = _of_directories(policy, arguments), None
        decision = decide(policy, case.evidence, case.references, case.facts, waived, labels)
    elif any(directories):
        raise Usage(
            f"--candidate {arguments.candidate} and --baseline {arguments.baseline}: expected two "
            "directories of evaluations, or two references to the registry"
        )
    else:
        with open_registry() as registry:
            policy = load_policy(arguments.policy, registry)
            case = _of_registry(registry, policy, arguments)
            decision = decide(policy, case.evidence, case.references, case.facts, waived, labels)
            _tell(case.notes)
            verdict_id = record(registry, policy, case, decision).id
    _report(arguments, junit(title, decision, verdict_id), markdown(title, decision, verdict_id))
    document = {
        "id": verdict_id,
        "candidate": case.candidate or arguments.candidate,
        "baseline": case.baseline or arguments.baseline,
        "policy_digest": policy.digest,
        "exit_code": decision.exit_code,
        "notes": list(case.notes),
        **decision.model_dump(mode="json"),
    }
    return Reply(document, lambda: print("\n".join(lines(title, decision, verdict_id))), decision.exit_code)


def _report(arguments: argparse.Namespace, xml: str, page: str) -> None:
    """Write the reports that were asked for; each is tried, whatever becomes of the other."""
    failed = []
    for path, text in ((arguments.junit, xml), (arguments.markdown, page)):
        try:
            if path is not None:
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            failed.append(f"{path} cannot be written: {error}")
    if failed:
        raise Usage("; ".join(failed))


def _waivers(arguments: argparse.Namespace) -> list[Waived]:
    if not arguments.waive:
        return []
    if not (is_said(arguments.reason) and is_said(arguments.who)):
        raise Usage("--waive needs --reason WHY and --who NAME; both are recorded in the decision")
    return [Waived(rule, arguments.reason, arguments.who) for rule in arguments.waive]


def _of_directories(policy: GatePolicy, arguments: argparse.Namespace) -> GateInput:
    candidate, baseline = Path(arguments.candidate), Path(arguments.baseline)
    parent, quant, trained_on = arguments.parent, arguments.quant, arguments.trained_on
    latency = read_latency(arguments.latency, None)
    return from_directories(policy, candidate, baseline, parent, quant, trained_on, latency)


def _of_registry(registry: Registry, policy: GatePolicy, arguments: argparse.Namespace) -> GateInput:
    for option in ("parent", "quant", "trained_on"):
        if getattr(arguments, option) is not None:
            raise Usage(f"--{option.replace('_', '-')} is for directories; the registry knows it by lineage")
    candidate, measured = _model(registry, arguments.candidate)
    baseline, channel = arguments.baseline, arguments.channel
    if baseline is None and channel is None:
        raise Usage("give --baseline REF, or --channel to compare with what it serves")
    if channel is None and baseline is not None and "/" in baseline:
        channel = baseline
    if channel is not None:
        refuse_other_policy(registry, channel, policy)
    if channel is not None and not CHANNEL.fullmatch(channel):
        raise Usage(
            f"{channel[:140]!r} is not a valid channel name; expected team/name, for example support/prod"
        )
    base, evaluations = None, dict(measured)
    live = None if channel is None else _live(registry, channel, baseline)
    if baseline is not None and baseline != channel:
        compared, evaluation = _model(registry, baseline)
        if compared.manifest.kind == "base":
            base, role = compared, "baseline"
        elif live is not None and live.id != compared.id:
            raise Usage(
                f"--baseline {baseline} is {short(compared.id)}, but channel {channel} serves "
                f"{short(live.id)}; "
                "a decision that can move the channel compares with what it serves: leave --baseline out"
            )
        else:
            live, role = compared, "live"
        if evaluation:
            evaluations[role] = evaluation["candidate"]
    latency = read_latency(arguments.latency, candidate.id)
    written = baseline if channel is None and live is not None else None
    return from_registry(registry, policy, candidate, live, base, evaluations, latency, written)


def _live(registry: Registry, channel: str, baseline: str | None) -> Artifact | None:
    """What the channel serves; None where it serves nothing yet."""
    current = registry.channels.get(channel)
    if current is not None:
        return registry.get(current.artifact_id)
    if channel == baseline:
        raise Usage(
            f"--baseline {channel}: this channel serves nothing, so there is nothing to compare with; to "
            f"gate for a new channel, give --channel {channel}"
        )
    remark(f"channel {channel} serves nothing yet: the base takes its place")
    return None


def _model(registry: Registry, ref: str) -> tuple[Artifact, dict[str, Artifact]]:
    """The artifact of `ref`; of an evaluation, the model it measured, and `{"candidate": evaluation}`."""
    artifact = registry.get(ref)
    if artifact.manifest.kind == "dataset":
        raise Usage(f"{ref} is a dataset; a gate compares models")
    if artifact.manifest.kind != "evaluation":
        return artifact, {}
    measured = [registry.get(p.id) for p in artifact.manifest.parents if p.relation == "evaluation_of"]
    measured.sort(key=lambda model: model.manifest.kind != "adapter")
    if not measured:
        raise Usage(f"{ref} is an evaluation of a model that this registry does not hold")
    return measured[0], {"candidate": artifact}


def load_policy(name: str | Path, registry: Registry | None) -> GatePolicy:
    """The policy in a YAML file (or the gate of the recipe in it), or of a channel.

    Raises InvalidRecipe for a file that is none, NotFound for a channel without a policy.
    """
    path = Path(name)
    if path.is_file():
        tree = read_yaml(path)
        if isinstance(tree, dict) and {"gate", "base", "prepare"} <= tree.keys():
            tree = tree["gate"]
        return validate(GatePolicy, tree, where=str(path))
    current = registry.channels.policy(str(name)) if registry is not None else None
    if current is None:
        raise NotFound(
            f"{str(name)!r} is neither a YAML file nor a channel with a policy; `tuneline channels` "
            "lists the channels, docs/gates.md shows a policy"
        )
    return validate(GatePolicy, current.policy, where=f"the policy of channel {name}")


def plan(arguments: argparse.Namespace) -> Reply:
    """How many items each rule needs."""
    if Path(arguments.policy).is_file():
        policy = load_policy(arguments.policy, None)
    else:
        with open_registry() as registry:
            policy = load_policy(arguments.policy, registry)
    rates = arguments.flip_rate or [0.02, 0.04, 0.08]
    if bad := [rate for rate in rates if not 0 < rate <= 1]:
        raise Usage(f"--flip-rate {bad[0]}: expected a share above 0 and at most 1, for example 0.04")
    if arguments.items is not None and not 2 <= arguments.items <= MOST_ITEMS:
        raise Usage(f"--items {str(arguments.items)[:40]}: expected 2 to {MOST_ITEMS}")
    if arguments.spread is not None and not 0 < arguments.spread < float("inf"):
        raise Usage(f"--spread {arguments.spread}: expected a finite number above 0")
    rows = plan_rules(policy, rates, arguments.items, arguments.spread)
    document = [row.model_dump(mode="json") for row in rows]

    def show() -> None:
        with_items = arguments.items is not None
        columns = ["rule", "differs on", "true difference", "items needed", "power"]
        columns += [f"power with {arguments.items:,}"] if with_items else []
        print_table("", columns, [_plan_cells(row, with_items) for row in rows])
        for note in dict.fromkeys(row.note for row in rows if row.note):
            print(note)

    return Reply(document, show)


def _plan_cells(row: RulePlan, with_items: bool) -> list[str]:
    unit = (lambda value: f"{100 * value:+.1f} points") if row.scores == "binary" else (lambda v: f"{v:+.4g}")
    cells = [
        row.rule,
        "–" if row.flip_rate is None else f"{row.flip_rate:.1%}",
        unit(row.difference),
        "–" if row.items is None else f"{row.items:,}",
        "–" if row.power is None else f"{row.power:.2f}",
    ]
    return [*cells, "–" if row.power_with is None else f"{row.power_with:.2f}"] if with_items else cells


def show(arguments: argparse.Namespace) -> Reply:
    """A recorded decision; exit code 4 when it was changed or its signature does not hold."""
    with open_registry() as registry:
        decision = registry.gates.resolve(arguments.id)
        problem = registry.gates.problem(decision)
    document = {**decision.model_dump(mode="json"), "problem": problem}

    def text() -> None:
        print(f"decision {decision.id}")
        print(f"verdict {decision.verdict} on {short(decision.candidate)} against {short(decision.baseline)}")
        print(f"made {decision.created:%Y-%m-%d %H:%M:%S} under the policy {decision.policy_digest[:12]}")
        print(f"signature: {'holds, by key ' + str(decision.signer)[:12] if problem is None else problem}")
        for rule in decision.evidence.get("rules", ()):
            print(f"{rule['verdict']:>12}  {rule['sentence']}")

    return Reply(document, text, 4 if problem else 0)


def promote(arguments: argparse.Namespace) -> Reply:
    """Move a channel on a passing decision, or on a waiver."""
    waiver = None
    if arguments.waive:
        if not (is_said(arguments.reason) and is_said(arguments.who)):
            raise Usage("--waive needs --reason WHY and --who NAME; both are kept in the channel's history")
        waiver = Waiver(arguments.reason, arguments.who)
    elif arguments.reason or arguments.who:
        raise Usage("--reason and --who belong to --waive; a gate decision speaks for itself")
    with open_registry() as registry:
        artifact = registry.get(arguments.ref)
        current = registry.channels.get(arguments.channel)
        decision = None if waiver else _decision(registry, artifact, arguments.decision)
        generation = current.generation if current else 0
        moved = registry.channels.move(
            arguments.channel, artifact.id, generation, decision, waiver, getpass.getuser()
        )
        notes = [note] if (note := nf4_only(registry, artifact)) else []
    _tell(notes)
    text = f"{moved.name} → {short(moved.artifact_id)} (generation {moved.generation})"
    document = {**moved.model_dump(mode="json"), "decision": decision, "notes": notes}
    return Reply(document, lambda: print(text))


def _decision(registry: Registry, artifact: Artifact, reference: str | None) -> str | None:
    if reference is not None:
        return registry.gates.resolve(reference).id
    latest = registry.gates.latest(artifact.id)
    return latest.id if latest else None


def is_said(words: str | None) -> bool:
    """Whether somebody wrote more than white space."""
    return bool(words and words.strip())


def _tell(notes: Iterable[str]) -> None:
    for note in notes:
        remark(f"note: {note}")
