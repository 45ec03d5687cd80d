"""`tuneline gate` and `promote`, from evaluations in a registry."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import cli
from registry import Registry
from tests.flows.commands.conftest import Run
from tests.flows.evaluation_files import BAD, GOOD, POLICY, Lineage, fidelity_task, question
from tests.flows.lineages import publish
from tests.seconds import seconds


def test_from_nothing_to_a_moved_channel(lineage: Lineage, policy: Callable[..., str], run: Run) -> None:
    file, candidate = policy(), lineage.gguf.id
    code, said = run("gate", file, "--candidate", candidate[:12], "--channel", "team/prod")
    assert (code, said["verdict"]) == (0, "pass")
    assert said["baseline"] == lineage.base.id, "an empty channel: the base takes the place of what is live"
    assert said["applied"]["tasks"][2]["against"] == "baseline"
    assert [rule["n"] for rule in said["rules"]] == [100, 100, 100]
    shown = run("gate", "show", said["id"][:8])[1]
    assert (shown["id"], shown["problem"]) == (said["id"], None)
    assert [rule["against"] for rule in shown["policy"]["tasks"]] == ["baseline", "parent", "live"], (
        "as written"
    )
    code, moved = run("promote", candidate, "team/prod")
    assert (code, moved["generation"], moved["decision"]) == (0, 1, said["id"])
    assert run("channels")[1][0]["artifact_id"] == candidate
    code, channel = run("channels", "show", "team/prod")
    assert channel["history"][0]["decision_id"] == said["id"]
    assert channel["policies"][0]["policy"] == shown["policy"], "taken over from the first decision"


def test_the_second_is_compared_with_what_the_channel_serves(
    lineage: Lineage, policy: Callable[..., str], run: Run, registry: Registry
) -> None:
    file = policy()
    run("gate", file, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    run("promote", lineage.gguf.id, "team/prod")
    better = lineage.quantized("Q8_0")
    lineage.evaluate(better, GOOD)
    code, said = run("gate", "team/prod", "--candidate", better.id, "--baseline", "team/prod")
    assert (code, said["baseline"]) == (0, lineage.gguf.id)
    assert run("promote", better.id, "team/prod")[1]["generation"] == 2
    mixed = ("--baseline", lineage.gguf.id, "--channel", "team/prod")
    code, said = run("gate", file, "--candidate", better.id, *mixed)
    assert (code, "compares with what it serves: leave --baseline out" in said["error"]) == (3, True)
    worse = lineage.quantized("Q2_K")
    lineage.evaluate(worse, BAD)
    code, said = run("gate", file, "--candidate", worse.id, "--channel", "team/prod")
    assert (code, said["verdict"]) == (1, "fail")
    assert run("promote", worse.id, "team/prod")[0] == 1
    channel = registry.channels.get("team/prod")
    assert channel is not None
    assert channel.artifact_id == better.id
    stale = run("promote", lineage.gguf.id, "team/prod")
    assert stale[0] == 1
    assert "run the gate again against that one" in stale[1]["error"]


def test_items_in_the_training_data(registry: Registry, policy: Callable[..., str], run: Run) -> None:
    made = Lineage(registry, trained_on=("something else", question(5)))
    for model, scores in ((made.base, BAD), (made.merged, GOOD), (made.gguf, GOOD)):
        made.evaluate(model, scores)
    gate = ("gate", policy(contamination={"words": 8}), "--candidate", made.gguf.id, "--channel", "team/prod")
    code, said = run(*gate)
    assert (code, said["verdict"]) == (1, "fail")
    assert "1 of 100 items stand in the training data (2 rows" in said["rules"][-1]["sentence"]
    assert run(*gate, "--waive", "contamination")[0] == 3, "a waiver needs a reason and a name"
    code, said = run(*gate, "--waive", "contamination", "--reason", "known", "--who", "ada")
    assert (code, said["rules"][-1]["waived"]) == (0, {"reason": "known", "who": "ada"})
    assert run("promote", made.gguf.id, "team/prod")[0] == 0
    shown = run("gate", "show", said["id"])[1]
    assert shown["evidence"]["rules"][-1]["waived"]["who"] == "ada"


def test_fidelity_is_read_from_the_evaluation_against_the_parent(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    limits = policy(fidelity=[{"quant": "Q4_K_M", "kl_mean": 0.05}])
    gate = ("gate", limits, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    code, said = run(*gate)
    assert (code, "was not compared with its parent" in said["rules"][-1]["sentence"]) == (3, True)
    near = {"kl_mean": (0.01, 0.02, 0.03)}
    lineage.evaluate(lineage.gguf, GOOD, fidelity=fidelity_task("to base", lineage.base.id, **near))
    assert run(*gate)[0] == 3, "compared with the base, not with its parent"
    lineage.evaluate(lineage.gguf, GOOD, fidelity=fidelity_task("fidelity", lineage.merged.id, **near))
    assert run(*gate)[0] == 0
    far = {"kl_mean": (4.0, 4.5, 5.0)}
    lineage.evaluate(lineage.gguf, GOOD, fidelity=fidelity_task("to base", lineage.base.id, **far))
    assert run(*gate)[0] == 0, "a newer comparison with something else does not hide the one with the parent"


def test_a_lineage_that_is_not_known_is_invalid(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    tasks = [POLICY["tasks"][0]]
    orphan = publish(
        lineage.registry, "merged", "import", {"model.safetensors": b"from elsewhere"},
        base=lineage.base.manifest.base, quant=lineage.merged.manifest.quant,
    )  # fmt: skip
    lineage.evaluate(orphan, GOOD)
    gate = ("--candidate", orphan.id, "--baseline", lineage.base.id)
    assert run("gate", policy(tasks=tasks), *gate)[0] == 0, "the policy asks for no lineage"
    code, said = run("gate", policy(tasks=tasks, evidence={"lineage": True}), *gate)
    assert (code, said["rules"][-1]["rule"]) == (3, "evidence")
    for lacking in ("no base", "no adapter", "no training data"):
        assert lacking in said["rules"][-1]["sentence"]


def test_latency_comes_from_a_file_about_this_artifact(
    lineage: Lineage, policy: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    gate = ("gate", policy(max_latency_ms=200), "--candidate", lineage.gguf.id, "--channel", "team/prod")
    assert run(*gate)[0] == 3
    file = tmp_path / "latency.json"
    cases = [
        ({"subject": lineage.gguf.id, "milliseconds": [100.0] * 80}, 0, ""),
        ({"subject": lineage.gguf.id, "milliseconds": [100.0] * 80 + [300.0] * 40}, 1, ""),
        ({"subject": lineage.gguf.id, "milliseconds": [100.0] * 20}, 2, ""),
        ({"subject": lineage.base.id, "milliseconds": [100.0] * 80}, 3, "was measured on"),
        ({"subject": lineage.gguf.id, "milliseconds": []}, 3, "at least one duration"),
        ({"subject": lineage.gguf.id, "milliseconds": [100, -1]}, 3, "finite and above 0"),
        ({"subject": lineage.gguf.id}, 3, "expected {"),
    ]
    for content, expected, words in cases:
        file.write_text(json.dumps(content))
        code, said = run(*gate, "--latency", str(file))
        assert code == expected, said
        assert words in said.get("error", "")


MISUSE = [
    (["--candidate", "{gguf}"], "give --baseline REF, or --channel"),
    (["--candidate", "{dataset}", "--channel", "a/b"], "is a dataset; a gate compares models"),
    (["--candidate", "{gguf}", "--baseline", "{gguf}", "--parent", "x"], "--parent is for directories"),
    (["--candidate", "{gguf}", "--baseline", "."], "expected two directories"),
    (["--candidate", "{gguf}", "--channel", "Bad"], "'Bad' is not a valid channel name"),
    (
        ["--candidate", "{gguf}", "--baseline", "suport/prod"],
        "serves nothing, so there is nothing to compare",
    ),
    (["--candidate", "nothing", "--channel", "a/b"], "no artifact or channel is called 'nothing'"),
]


@pytest.mark.parametrize(("words", "said"), MISUSE)
def test_arguments_that_do_not_fit(
    lineage: Lineage, policy: Callable[..., str], run: Run, words: list[str], said: str
) -> None:
    known = {"gguf": lineage.gguf.id, "dataset": lineage.dataset.id}
    code, found = run("gate", policy(), *(word.format(**known) for word in words))
    assert (code, said in found["error"]) == (3, True), found


def test_missing_arguments_do_not_look_like_missing_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["gate", "policy.yaml"])
    assert ended.value.code == 3
    assert "required: --candidate" in capsys.readouterr().err


def test_a_policy_file_is_checked_like_a_recipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "tasks:\n  - {task: t, metric: m, role: keep, agains: live, margin: 0.1}\n"
    )
    code, said = run("gate", "plan", str(tmp_path / "p.yaml"))
    assert code == 3
    assert "tasks.0.agains: unknown key; did you mean 'against'?" in said["error"]
    assert run("gate", "plan", str(tmp_path / "none.yaml"))[0] == 3


def test_plans(run: Run, policy: Callable[..., str], tmp_path: Path) -> None:
    margin = {"task": "t", "metric": "m", "against": "live"}
    tasks = [
        {**margin, "role": "keep", "margin": 0.02},
        {**margin, "role": "improve", "margin": 0.05},
        {**margin, "role": "keep", "margin": 0.1, "scores": "real"},
    ]
    file = policy(tasks=tasks)
    code, rows = run("gate", "plan", file, "--flip-rate", "0.04", "--items", "619", "--spread", "0.5")
    assert code == 0
    assert (rows[0]["items"], rows[0]["power"] > 0.8, rows[0]["power_with"] < 0.78) == (686, True, True)
    assert "needs at least that many flips" in rows[1]["note"]
    assert rows[2]["items"] == 155
    for wrong in (("--flip-rate", "4"), ("--flip-rate", "nan"), ("--items", "-5"), ("--spread", "0")):
        assert run("gate", "plan", file, *wrong)[0] == 3
    assert cli.main(["gate", "plan", file]) == 0


def test_a_baseline_given_without_a_channel_is_not_called_the_channels(
    lineage: Lineage, policy: Callable[..., str], run: Run
) -> None:
    given = ("--candidate", lineage.gguf.id, "--baseline", lineage.merged.id)
    code, said = run("gate", policy(), *given)
    assert code == 0, said
    assert f"against {lineage.merged.id}, the given baseline on 100" in said["rules"][2]["sentence"]
    assert "channel" not in str(said["rules"])
    assert "against the quantized base on 100" in said["rules"][0]["sentence"]


def test_it_is_quick_and_loads_nothing_heavy(
    lineage: Lineage, policy: Callable[..., str], tmp_path: Path
) -> None:
    """1,500 items on four models, with contamination, in a process of its own."""
    rows = [1.0] * 1400 + [0.0] * 100
    for model in (lineage.base, lineage.merged, lineage.gguf):
        lineage.evaluate(model, rows[::-1] if model == lineage.base else rows, seed=3)
    file = policy(contamination={})
    code = (
        "import sys; from flows.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'prefect', 'lm_eval', 'datasets'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ("gate", file, "--candidate", lineage.gguf.id, "--channel", "team/prod")
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=seconds(60),
        env={**os.environ, "TUNELINE_HOME": str(lineage.registry.home)},
    )  # fmt: skip
    assert done.returncode in {0, 1, 2}, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # On a busy machine it also waits for a core, which is no work of its own.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
