"""Find what a gate reads, by lineage in the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.gates import other_base
from flows.gates.ancestry import Ancestry, ancestry, as_stored, is_gguf_adapter, nf4_only, on_16bit, quant_of
from flows.gates.contamination import Seen, search, training_texts
from flows.gates.evidence import Evidence, load_evidence
from flows.gates.gate import CandidateFacts
from flows.gates.measured import differing_arithmetic, recorded
from flows.gates.policy import GatePolicy
from flows.gates.soundness import Expected, RequiredNf4, nf4_values
from registry import Artifact, Registry
from registry.artifacts import JsonObject, digest
from registry.errors import RegistryError


@dataclass(frozen=True)
class GateInput:
    """All that a decision rests on. `candidate` and `baseline` are ids where the registry knows them."""

    evidence: Evidence
    references: dict[str, Evidence]
    facts: CandidateFacts
    candidate: str | None = None
    baseline: str | None = None
    chosen: Mapping[str, Artifact] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What whoever decides should know of the evidence."""


def from_registry(
    registry: Registry,
    policy: GatePolicy,
    candidate: Artifact,
    live: Artifact | None,
    base: Artifact | None = None,
    evaluations: Mapping[str, Artifact] | None = None,
    latency_ms: Sequence[float] | None = None,
    given: str | None = None,
) -> GateInput:
    """The evidence about `candidate` and what it is compared with.

    `live` is what the channel serves, or what was `given` in its place (as it was written); `base` is another
    base than the lineage's; `evaluations` (role → artifact) are taken as they are, any other is the latest
    that was measured like the candidate's. What cannot be found or
    read becomes a problem in the evidence, not an error.
    """
    family = ancestry(registry, candidate)
    parent = family.parent
    if parent is not None and parent.id == candidate.id and not on_16bit(registry, candidate):
        parent = None
    models = {"baseline": base or family.base, "parent": parent, "live": live}
    needed = {role: {r.task for r in policy.tasks if r.against == role} for role in models}
    if live is None:
        needed["baseline"] |= needed.pop("live")
    chosen = dict(evaluations or {})
    _choose(registry, family, models, needed, chosen)
    read: dict[str, Evidence] = {}
    for role, model in {"candidate": candidate, **models}.items():
        if model is not None and (role == "candidate" or needed.get(role)):
            evidence = _read(registry, model, chosen.get(role), _nf4(registry, family, model, role))
            read[role] = evidence.model_copy(update={"called": _called(role, evidence, given)})
    evidence = _with_files(registry, candidate, read.pop("candidate"))
    if live is not None and "live" in read and _on_one_dataset(chosen) and other_base.differ(candidate, live):
        assert live.manifest.base is not None
        called = f"the channel's current artifact, over its own base {live.manifest.base.source}"
        read["live"] = other_base.asked_alike(evidence, read["live"], called)
    facts = _facts(registry, policy, family, evidence, chosen, latency_ms)
    baseline = live or models["baseline"]
    notes = tuple(note for model in (candidate, live) if model and (note := nf4_only(registry, model)))
    return GateInput(evidence, read, facts, candidate.id, baseline.id if baseline else None, chosen, notes)


def _on_one_dataset(chosen: Mapping[str, Artifact]) -> bool:
    """Whether the candidate and what is live were measured on the same rows."""
    measured_on = [
        {parent.id for parent in chosen[role].manifest.parents if parent.relation == "evaluated_on"}
        for role in ("candidate", "live")
        if role in chosen
    ]
    return len(measured_on) == 2 and measured_on[0] == measured_on[1]


def _with_files(registry: Registry, candidate: Artifact, evidence: Evidence) -> Evidence:
    """The evidence, with a problem where the candidate has no files any more."""
    if not (gone := registry.gates.collected(candidate.id)):
        return evidence
    why = f"the files of {candidate.id[:12]} were collected at {gone}: there is nothing left to serve"
    return evidence.model_copy(update={"problems": (*evidence.problems, why)})


def _facts(
    registry: Registry,
    policy: GatePolicy,
    family: Ancestry,
    evidence: Evidence,
    chosen: Mapping[str, Artifact],
    latency_ms: Sequence[float] | None,
) -> CandidateFacts:
    candidate = family.model
    made_from = family.merged if candidate.manifest.kind == "quantized" else family.adapter
    seen, unsearched = _seen(registry, policy, evidence, family.dataset)
    return CandidateFacts(
        quant=quant_of(_weights(registry, candidate, chosen.get("candidate"))),
        parent=made_from.id if made_from else None,
        fidelity=_fidelity(registry, candidate, made_from, chosen) if policy.fidelity else None,
        latency_ms=latency_ms,
        seen=seen,
        unsearched=unsearched,
        missing=tuple(_missing(registry, policy, family)),
    )


def _choose(
    registry: Registry,
    family: Ancestry,
    models: Mapping[str, Artifact | None],
    needed: Mapping[str, set[str]],
    chosen: dict[str, Artifact],
) -> None:
    """Add the latest evaluation of each role to `chosen`.

    Of the candidate, the latest one that every reference has a like of, and these; where there is none, the
    latest of each, for the gate to say what differs.
    """
    evaluations = {
        role: _evaluations(registry, family, model, role)
        for role, model in {"candidate": family.model, **models}.items()
        if model is not None and role not in chosen and (role == "candidate" or needed.get(role))
    }
    tasks = set().union(*needed.values())
    measured = [chosen["candidate"]] if "candidate" in chosen else evaluations.pop("candidate", [])
    candidates = [e for e in measured if tasks <= _tasks(e).keys()] or measured

    def like(evaluation: Artifact, role: str) -> Artifact | None:
        wanted = _likeness(evaluation, needed[role])
        ours = evaluation.manifest.metrics.get("computed_with")
        for other in evaluations[role]:
            theirs = other.manifest.metrics.get("computed_with")
            if _likeness(other, needed[role]) == wanted and not differing_arithmetic(ours, theirs):
                return other
        return None

    best = next((e for e in candidates if all(like(e, role) for role in evaluations)), None)
    best = best or next(iter(candidates), None)
    if best is not None:
        chosen["candidate"] = best
    for role, others in evaluations.items():
        pick = (like(best, role) if best else None) or next(iter(others), None)
        if pick is not None:
            chosen[role] = pick


def _evaluations(registry: Registry, family: Ancestry, model: Artifact, role: str) -> list[Artifact]:
    """Those that measured `model` itself on tasks, newest first; with the right NF4 setting before others."""
    evaluations = [e for e in reversed(registry.evaluations(model.id)) if _subject(registry, e) == model.id]
    if role == "parent" and model.id == family.model.id:
        evaluations = [e for e in evaluations if not as_stored(e)]
    expected = _nf4(registry, family, model, role)
    return sorted(
        (e for e in evaluations if _tasks(e)),
        key=lambda e: (
            expected is not None and nf4_values(e.manifest.config.get("nf4")) != nf4_values(expected.setting)
        ),
    )


def _subject(registry: Registry, evaluation: Artifact) -> str | None:
    """What an evaluation measured: the adapter where there is one on its base."""
    subjects = [registry.get(p.id) for p in evaluation.manifest.parents if p.relation == "evaluation_of"]
    adapters = [a for a in subjects if a.manifest.kind == "adapter"]
    return next((a.id for a in (*adapters, *subjects)), None)


def _tasks(evaluation: Artifact) -> dict[str, JsonObject | None]:
    """Name → config of the tasks that were scored item by item, on rows that no sweep chose by."""
    configs = {task.get("name"): task for task in evaluation.manifest.config.get("tasks", ())}
    scored = {name: configs.get(name) for name in evaluation.manifest.metrics.get("tasks", ())}
    return {name: task for name, task in scored.items() if (task or {}).get("split") != "validation"}


def _likeness(evaluation: Artifact, tasks: set[str]) -> str:
    """A digest that two evaluations share which asked the same of two models."""
    configs = {name: config for name, config in _tasks(evaluation).items() if name in tasks}
    own_items = bool(configs) and all(
        config and config.get("kind") == "lm-eval" for config in configs.values()
    )
    edges = () if own_items else evaluation.manifest.parents
    data = sorted(parent.id for parent in edges if parent.relation == "evaluated_on")
    return digest([configs, evaluation.manifest.config.get("seed"), data])


def _nf4(registry: Registry, family: Ancestry, model: Artifact, role: str) -> RequiredNf4 | None:
    """What a measurement of `model` has to have, or None where that is not known.

    The base and the adapter are measured as the adapter was trained; stored weights as they are stored, and
    the adapter like them where it is to be served and was measured so.
    """
    kind = model.manifest.kind
    if kind in {"merged", "quantized"} or is_gguf_adapter(model):
        return RequiredNf4()
    if kind == "adapter" and role in {"candidate", "live"} and on_16bit(registry, model):
        return RequiredNf4()
    adapter = model if kind == "adapter" else family.adapter
    known = adapter is not None and "nf4" in adapter.manifest.config
    return RequiredNf4(adapter.manifest.config["nf4"]) if adapter is not None and known else None


def _read(
    registry: Registry, model: Artifact, evaluation: Artifact | None, nf4: RequiredNf4 | None
) -> Evidence:
    """The evaluation as the registry holds it, or evidence that says why there is none."""
    if evaluation is None:
        why = f"there is no evaluation of {model.manifest.kind} {model.id[:12]}"
        return Evidence(artifact_id="none", digest="none", subject=model.id, problems=(why,))
    expected = Expected(
        subject=model.id,
        files={name: entry.sha256 for name, entry in evaluation.manifest.files.items()},
        nf4=nf4,
    )
    try:
        return load_evidence(registry.view(evaluation.id), evaluation.id, expected)
    except RegistryError as error:
        why = f"evaluation {evaluation.id[:12]} cannot be read: {error}"
        return Evidence(artifact_id=evaluation.id, digest="none", subject=model.id, problems=(why,))


def _fidelity(
    registry: Registry, candidate: Artifact, parent: Artifact | None, chosen: Mapping[str, Artifact]
) -> Evidence | None:
    """The latest evaluation that compares the candidate with its parent, where it is not the one chosen."""
    comparisons = [
        evaluation
        for evaluation in reversed(registry.evaluations(candidate.id))
        if parent is not None
        and any(
            (task.get("reference") or {}).get("subject") == parent.id
            for task in evaluation.manifest.metrics.get("fidelity", {}).values()
        )
    ]
    if not comparisons or comparisons[0].id == (chosen["candidate"].id if "candidate" in chosen else None):
        return None
    return _read(registry, candidate, comparisons[0], RequiredNf4())


def _weights(registry: Registry, candidate: Artifact, evaluation: Artifact | None) -> Artifact:
    """What the limits are about: of an adapter that was measured over stored weights, those of the base."""
    if candidate.manifest.kind != "adapter" or evaluation is None or not as_stored(evaluation):
        return candidate
    subjects = [
        p.id for p in evaluation.manifest.parents if p.relation == "evaluation_of" and p.id != candidate.id
    ]
    return registry.get(subjects[0]) if subjects else candidate


def _missing(registry: Registry, policy: GatePolicy, family: Ancestry) -> list[str]:
    missing = family.missing if policy.evidence.lineage else []
    if policy.evidence.verified:
        problems = registry.verify(family.model.id)
        missing += [f"the candidate is damaged: {problem}" for problem in problems[:3]]
    return missing


def _seen(
    registry: Registry, policy: GatePolicy, evidence: Evidence, dataset: Artifact | None
) -> tuple[Seen | None, str]:
    """What was found in the training data, and why nobody looked where nobody could."""
    if policy.contamination is None or dataset is None:
        return None, "the registry knows of no dataset that the candidate was trained on"
    try:
        return search_training_data(policy, evidence, registry.view(dataset.id)), ""
    except RegistryError as error:  # collected or damaged: nobody can look any more
        return None, f"the training data {dataset.id[:12]} cannot be read: {error}"


def _called(role: str, evidence: Evidence, reference: str | None) -> str | None:
    """What a registered model is in a sentence: its role, and how its weights were measured."""
    unread = evidence.computed_with is None and evidence.problems
    if role == "baseline" and evidence.nf4 is None and not unread:
        return f"the base ({recorded(evidence.computed_with)})"
    if role == "live" and reference is not None:
        return f"{reference}, the given baseline"
    return None


def search_training_data(policy: GatePolicy, evidence: Evidence, dataset: Path) -> Seen | None:
    """What the policy looks for in the training data, None where it asks for no search."""
    if policy.contamination is None:
        return None
    tasks = {rule.task for rule in policy.tasks}
    return search(evidence, sorted(tasks), training_texts(dataset), policy.contamination)
