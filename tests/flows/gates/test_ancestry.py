"""Over what an adapter is served, as far as the registry knows."""

from __future__ import annotations

from pathlib import Path

from flows.gates.ancestry import host_of, promoted_over
from registry import Registry, Waiver
from tests.flows.lineages import evaluate, family


def test_an_adapter_is_compared_over_what_it_was_promoted_on_and_not_over_what_was_tried_last(
    tmp_path: Path,
) -> None:
    with Registry.open(tmp_path / "home") as registry:
        made = family(registry)
        adapter, old, new = made["adapter"], made["base"], made["gguf"]
        tried = evaluate(registry, adapter, made["dataset"], beneath=new)
        registry.channels.move("a/prod", adapter.id, 0, waiver=Waiver("the first", "ada"))
        latest = host_of(registry, adapter)
        assert latest is not None
        assert latest.id == new.id
        first = promoted_over(registry, "a/prod", adapter)
        assert first is not None
        assert first.id == old.id, "a waiver cites no evaluation: the first one"
        cited = {"rules": [], "evaluations": {"candidate": tried.id}}
        decision = registry.gates.record(adapter.id, old.id, {"tasks": []}, "pass", cited)
        registry.channels.move("b/prod", adapter.id, 0, decision_id=decision)
        decided = promoted_over(registry, "b/prod", adapter)
        assert decided is not None
        assert decided.id == new.id
        assert promoted_over(registry, "a/prod", made["gptq"]) is None, "it was never measured over another"
